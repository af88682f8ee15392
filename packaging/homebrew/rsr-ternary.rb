# frozen_string_literal: true

# For a tap. tests/packages/run fills in version and checksum of the source distribution, and writes
# the formula to build/packages.
class RsrTernary < Formula
  include Language::Python::Virtualenv

  desc "Compiler and runtime for language models with ternary weights"
  homepage "https://pypi.org/project/rsr-ternary/"
  url "https://files.pythonhosted.org/packages/source/r/rsr-ternary/rsr_ternary-@VERSION@.tar.gz"
  sha256 "@SHA256@"
  license "Apache-2.0"

  depends_on "cmake" => :build
  depends_on "ninja" => :build
  depends_on "python@3.14"

  def install
    venv = virtualenv_create(libexec, "python3.14", without_pip: false)
    # Dependencies come as wheels: building tokenizers would need Rust.
    system venv.root/"bin/python", "-m", "pip", "install", "#{buildpath}[serve,hub]"
    bin.install_symlink venv.root/"bin/rsrc"
  end

  test do
    assert_match "kernels in use", shell_output("#{bin}/rsrc info")
    system bin/"rsrc", "demo"
  end
end
