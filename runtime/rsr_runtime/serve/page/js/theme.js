// The theme: the system's, light or dark. A classic script, so that the first paint has it.
{
  const NEXT = { system: "light", light: "dark", dark: "system" };
  const root = document.documentElement;
  let theme = localStorage.getItem("rsr.theme");
  if (!Object.hasOwn(NEXT, theme)) theme = "system";

  const apply = () => {
    root.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (!button) return;
    button.querySelector("use").setAttribute("href", `icons.svg#${theme}`);
    button.title = `Theme: ${theme}`;
    button.setAttribute("aria-label", `Theme: ${theme}. Change to ${NEXT[theme]}`);
  };

  apply();
  addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      theme = NEXT[theme];
      localStorage.setItem("rsr.theme", theme);
      apply();
    });
  });
}
