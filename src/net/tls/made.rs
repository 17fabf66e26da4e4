//! A certificate made here, for `--auto-tls`: it encrypts, and proves nothing to anybody who has not been given it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P521_SHA512, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use crate::{log, observe::log::shown};

/// The paths of `cert.pem` and `key.pem` in a folder, made for these hosts if they are not both there: a key of the curve
/// P-521, valid from now for so many years of 365 days (etcd: transport.SelfCert).
///
/// # Errors
/// Which file cannot be made, and why.
pub fn make_certificate(folder: &Path, hosts: &[String], years: u64) -> Result<(PathBuf, PathBuf), String> {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let (certificate, pair) = sign(hosts, years).map_err(|cause| format!("cannot make a certificate: {cause}"))?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause: io::Error| format!("{}: {}", path.display(), crate::error::in_go_words(&cause))
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
    fs::write(&cert, certificate).map_err(failed(&cert))?;
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&key).map_err(failed(&key))?;
    file.write_all(pair.as_bytes()).map_err(failed(&key))?;
    log!(Warn, "automatically generate certificates", "cert-file" = shown(cert.display()), "years" = years);
    Ok((cert, key))
}

/// Both as PEM.
fn sign(hosts: &[String], years: u64) -> Result<(String, String), String> {
    let mut params = CertificateParams::new(hosts).map_err(|cause| cause.to_string())?;
    let mut serial = [0; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut serial)
        .map_err(|_| "the system gives no random numbers")?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.not_before = OffsetDateTime::now_utc();
    // What a certificate can say ends with the year 9999.
    let days = years.min(9_999) as i64 * 365;
    let valid = params.not_before.checked_add(Duration::days(days));
    params.not_after = valid.ok_or_else(|| format!("no certificate is valid for {years} years"))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).map_err(|cause| cause.to_string())?;
    let certificate = params.self_signed(&pair).map_err(|cause| cause.to_string())?;
    Ok((certificate.pem(), pair.serialize_pem()))
}
