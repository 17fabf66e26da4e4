//! Certificates for tests.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// An authority, a server's certificate for 127.0.0.1 and a client's, with the common names "server" and "client".
pub struct Certificates(TempDir);

impl Certificates {
    pub fn make() -> Self {
        Self::for_hosts(&["127.0.0.1".to_owned()])
    }

    /// The same for servers with these names or addresses.
    pub fn for_hosts(hosts: &[String]) -> Self {
        let dir = TempDir::new().unwrap();
        let write = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        write("ca.pem", params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(hosts.to_vec()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            write(&format!("{name}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Certificates(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn server_flags(&self) -> [String; 2] {
        let path = |name| self.path(name).display().to_string();
        [format!("--cert-file={}", path("server.pem")), format!("--key-file={}", path("server.key"))]
    }
}
