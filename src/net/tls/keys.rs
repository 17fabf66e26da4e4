//! The certificate and key that are shown: looked at before each handshake.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{read, reread::Reread};
use crate::{log, observe::log::shown};

pub(super) struct KeyFiles {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    pair: Reread<CertifiedKey>,
}

impl KeyFiles {
    pub fn new(cert: &Path, key: &Path, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let files = KeyFiles { cert: cert.into(), key: key.into(), provider, pair: Reread::default() };
        files.current()?;
        Ok(files)
    }

    fn current(&self) -> Result<Arc<CertifiedKey>, String> {
        self.pair.current(&[&self.cert, &self.key], || load(&self.cert, &self.key, &self.provider))
    }
}

impl ResolvesServerCert for KeyFiles {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self.current() {
            Ok(pair) => Some(pair),
            // A half-written pair, most likely: this handshake fails, as etcd's would, and the next one looks again.
            Err(cause) => {
                log!(
                    Warn,
                    "failed to create peer certificate",
                    "cert-file" = shown(self.cert.display()),
                    "key-file" = shown(self.key.display()),
                    "error" = cause
                );
                None
            }
        }
    }
}

impl ResolvesClientCert for KeyFiles {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        match self.current() {
            Ok(pair) => Some(pair),
            Err(cause) => {
                log!(
                    Warn,
                    "failed to create client certificate",
                    "cert-file" = shown(self.cert.display()),
                    "key-file" = shown(self.key.display()),
                    "error" = cause
                );
                None
            }
        }
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for KeyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFiles").field("cert", &self.cert).field("key", &self.key).finish_non_exhaustive()
    }
}

fn load(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    pair((cert, &read(cert)?), (key, &read(key)?), provider)
}

/// Of two files' names and contents.
pub(super) fn pair(
    (cert, cert_text): (&Path, &[u8]),
    (key, key_text): (&Path, &[u8]),
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert_text)
        .collect::<Result<_, _>>()
        .map_err(|cause| format!("{}: {cause}", cert.display()))?;
    if chain.is_empty() {
        return Err(format!("{}: tls: failed to find any PEM data in certificate input", cert.display()));
    }
    let private = PrivateKeyDer::from_pem_slice(key_text).map_err(|cause| format!("{}: {cause}", key.display()))?;
    match CertifiedKey::from_der(chain, private, provider) {
        Ok(pair) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(format!("tls: private key does not match public key ({} and {})", cert.display(), key.display()))
        }
        Err(cause) => Err(format!("{}, {}: {cause}", cert.display(), key.display())),
    }
}
