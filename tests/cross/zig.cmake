# Cross-compiles with zig's clang, which has the C and C++ libraries of every target. In the
# environment, ZIG is the path of zig, ZIG_TARGET what it compiles for, such as aarch64-macos.
if($ENV{ZIG_TARGET} MATCHES "-macos")
  set(CMAKE_SYSTEM_NAME Darwin)
elseif($ENV{ZIG_TARGET} MATCHES "-windows")
  set(CMAKE_SYSTEM_NAME Windows)
else()
  set(CMAKE_SYSTEM_NAME Linux)
endif()
string(REGEX REPLACE "-.*" "" CMAKE_SYSTEM_PROCESSOR $ENV{ZIG_TARGET})

set(CMAKE_CXX_COMPILER ${CMAKE_CURRENT_LIST_DIR}/zig-c++)
set(CMAKE_AR ${CMAKE_CURRENT_LIST_DIR}/zig-ar)
set(CMAKE_RANLIB :)  # zig-ar writes the table of symbols

# zig compiles the C++ library of a target once per kind of optimization: every program that is
# linked, also those by which CMake knows the compiler, must have the same one.
set(CMAKE_CXX_FLAGS_INIT -O2)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
