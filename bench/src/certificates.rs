//! An authority and what a server and a client need of it, made for one run.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

pub const AUTHORITY: &str = "ca.pem";
pub const SERVER: [&str; 2] = ["server.pem", "server-key.pem"];

/// Writes them into a folder: keys of the curve P-256, as most have, for 127.0.0.1.
pub fn make(folder: &Path) -> Result<(), String> {
    let text = |cause: rcgen::Error| cause.to_string();
    let write = |name: &str, text: String| {
        fs::write(folder.join(name), text).map_err(|cause| format!("{}: {cause}", folder.join(name).display()))
    };
    let key = KeyPair::generate().map_err(text)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(text)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "urd-bench");
    write(AUTHORITY, params.self_signed(&key).map_err(text)?.pem())?;
    let issuer = Issuer::new(params, key);

    let key = KeyPair::generate().map_err(text)?;
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).map_err(text)?;
    // etcd asks itself through its gateway, with its own certificate.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    write(SERVER[0], params.signed_by(&key, &issuer).map_err(text)?.pem())?;
    write(SERVER[1], key.serialize_pem())
}
