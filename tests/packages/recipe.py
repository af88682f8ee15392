"""Read the conda recipe as rattler-build does, and render it for every kind of desktop and server.

    python tests/packages/recipe.py

Unknown fields, templates and requirements that do not parse are errors. Nothing is downloaded.
"""

from pathlib import Path

from rattler_build import PlatformConfig, RenderConfig, Stage0Recipe, VariantConfig

RECIPE = Path(__file__).parents[2] / "packaging" / "conda" / "recipe.yaml"
PLATFORMS = ("linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64", "win-arm64")
VARIANTS = {"python": ["3.10.*", "3.14.*"], "c_stdlib": ["sysroot"]}


def main() -> None:
    recipe = Stage0Recipe.from_file(RECIPE)
    for platform in PLATFORMS:
        config = RenderConfig(platform=PlatformConfig(target_platform=platform))
        for found in recipe.render(VariantConfig(VARIANTS), config):
            print(f"{platform:14}  {found.recipe.package.name} {found.recipe.build.string}")


if __name__ == "__main__":
    main()
