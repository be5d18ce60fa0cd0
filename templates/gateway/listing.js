// Buttons that copy a CID. Without this script the page is whole: the CIDs are text.
"use strict";
for (const cid of document.querySelectorAll("[data-cid], .ipfs-hash")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy the CID " + cid.textContent);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(cid.textContent);
      button.textContent = "Copied";
    } catch {
      // No clipboard without HTTPS: select it, so that the keyboard can copy it.
      getSelection().selectAllChildren(cid);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  cid.after(" ", button);
}
