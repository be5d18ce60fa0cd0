//! Certificates for HTTPS.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

/// A certificate chain and its key, ready to serve HTTP/2 and HTTP/1.1.
#[derive(Clone)]
pub struct Tls {
    pub(super) acceptor: TlsAcceptor,
}

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{path}: {error}")]
    Pem { path: String, error: rustls::pki_types::pem::Error },
    #[error("{path} holds no certificate")]
    NoCertificate { path: String },
    #[error("certificate and key cannot be used together: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Tls {
    /// Reads a PEM chain (`--tls-cert`) and a PEM key (`--tls-key`).
    pub fn from_files(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let pem = |path: &Path, error| TlsError::Pem { path: path.display().to_string(), error };
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|error| pem(cert, error))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate { path: cert.display().to_string() });
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}
