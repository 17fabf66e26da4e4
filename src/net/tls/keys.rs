//! The certificate and key that are shown, from files that somebody renews while the server runs: looked at before each
//! handshake, read when they have changed.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::read;
use crate::{log, observe::log::shown};

pub(super) struct KeyFiles {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    /// Handshakes of all cores share it; it is held for two looks at the file system, and longer only when there is news.
    read: Mutex<(Stamps, Arc<CertifiedKey>)>,
}

type Stamps = [Stamp; 2];

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl KeyFiles {
    pub fn new(cert: &Path, key: &Path, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        // Before they are read: a change in between is seen at the next handshake.
        let stamps = stamps(cert, key).map_err(|(path, cause)| {
            format!("open {}: {}", path.display(), crate::net::listener::in_go_words(&cause))
        })?;
        let pair = load(cert, key, &provider)?;
        Ok(KeyFiles { cert: cert.into(), key: key.into(), provider, read: Mutex::new((stamps, pair)) })
    }

    fn current(&self) -> Result<Arc<CertifiedKey>, String> {
        let stamps = stamps(&self.cert, &self.key).map_err(|(path, cause)| format!("{}: {cause}", path.display()))?;
        let mut read = self.read.lock().expect("nothing panics while it holds this");
        if read.0 != stamps {
            *read = (stamps, load(&self.cert, &self.key, &self.provider)?);
        }
        Ok(read.1.clone())
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

impl fmt::Debug for KeyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFiles").field("cert", &self.cert).field("key", &self.key).finish_non_exhaustive()
    }
}

fn stamps<'a>(cert: &'a Path, key: &'a Path) -> Result<Stamps, (&'a Path, io::Error)> {
    let stamp = |path: &'a Path| {
        let found = fs::metadata(path).map_err(|cause| (path, cause))?;
        let modified = (found.mtime(), found.mtime_nsec());
        Ok(Stamp { device: found.dev(), inode: found.ino(), size: found.size(), modified })
    };
    Ok([stamp(cert)?, stamp(key)?])
}

fn load(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<_, _>>()
        .map_err(|cause| format!("{}: {cause}", cert.display()))?;
    if chain.is_empty() {
        return Err(format!("{}: tls: failed to find any PEM data in certificate input", cert.display()));
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|cause| format!("{}: {cause}", key.display()))?;
    match CertifiedKey::from_der(chain, private, provider) {
        Ok(pair) => Ok(Arc::new(pair)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(format!("tls: private key does not match public key ({} and {})", cert.display(), key.display()))
        }
        Err(cause) => Err(format!("{}, {}: {cause}", cert.display(), key.display())),
    }
}
