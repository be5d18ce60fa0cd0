// Offers to open ipfs:// and ipns:// addresses with this gateway. The offer is hidden where the browser cannot take it.
"use strict";
const offer = document.getElementById("protocols");
if (offer && navigator.registerProtocolHandler && isSecureContext) {
  offer.hidden = false;
  for (const button of offer.querySelectorAll("button[data-scheme]")) {
    button.addEventListener("click", () => {
      const scheme = button.dataset.scheme;
      try {
        navigator.registerProtocolHandler(scheme, location.origin + "/" + scheme + "/?uri=%s");
        button.textContent = scheme + ":// asked for";
      } catch (error) {
        button.textContent = scheme + ":// refused: " + error.message;
      }
    });
  }
}
