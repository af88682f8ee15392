// Opens and closes the sidebar where the screen is narrow.

import { byId } from "./dom.js";

const narrow = matchMedia("(max-width: 800px)");
const sidebar = byId("sidebar");

export function openSidebar() {
  if (!narrow.matches) return;
  sidebar.classList.add("open");
  byId("backdrop").hidden = false;
  byId("open-sidebar").setAttribute("aria-expanded", "true");
  document.querySelector("main").inert = true;
  byId("close-sidebar").focus();
}

/** @returns {boolean} whether it was open */
export function closeSidebar() {
  if (!sidebar.classList.contains("open")) return false;
  sidebar.classList.remove("open");
  byId("backdrop").hidden = true;
  byId("open-sidebar").setAttribute("aria-expanded", "false");
  document.querySelector("main").inert = false;
  byId("open-sidebar").focus();
  return true;
}

byId("open-sidebar").addEventListener("click", openSidebar);
byId("close-sidebar").addEventListener("click", closeSidebar);
byId("backdrop").addEventListener("click", closeSidebar);
narrow.addEventListener("change", closeSidebar);
