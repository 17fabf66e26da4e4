//! What a client's certificate must be beside genuine: of an allowed name, and not revoked.

use std::{collections::HashSet, path::PathBuf};

use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};
use x509_parser::{
    pem::Pem,
    prelude::{CertificateRevocationList, FromDer, X509Certificate},
};

use super::{read, reread::Reread};
use crate::config::tls::Files;

pub(super) struct Admission {
    names: Names,
    /// Empty: no list.
    list: PathBuf,
    /// Serial numbers on it.
    revoked: Reread<HashSet<Vec<u8>>>,
}

enum Names {
    Any,
    Common(Vec<String>),
    Hosts(Vec<String>),
}

impl Admission {
    pub fn new(files: &Files) -> Self {
        let names = match (&files.allowed_common_names[..], &files.allowed_hostnames[..]) {
            ([], []) => Names::Any,
            (common @ [_, ..], _) => Names::Common(common.to_vec()),
            ([], hosts) => Names::Hosts(hosts.to_vec()),
        };
        Admission { names, list: files.crl.clone(), revoked: Reread::default() }
    }

    /// Looks at the certificates that a client has shown, its own first.
    pub fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), String> {
        let Some(own) = chain.first() else { return Ok(()) };
        let is_allowed = match &self.names {
            Names::Any => true,
            Names::Common(names) => common_name(own).is_some_and(|name| names.contains(&name)),
            Names::Hosts(hosts) => hosts.iter().any(|host| is_of_host(own, host)),
        };
        if !is_allowed {
            return Err("client certificate authentication failed".into());
        }
        match self.list.as_os_str().is_empty() {
            true => Ok(()),
            false => self.check_revocation(chain),
        }
    }

    /// By serial numbers alone, as etcd: whoever may write the file is believed. It is looked at in every handshake, for to be
    /// revoked is to be revoked now; a list that cannot be read lets nobody in.
    fn check_revocation(&self, chain: &[CertificateDer<'_>]) -> Result<(), String> {
        let revoked = self.revoked.current(&[&self.list], || {
            serials(&read(&self.list)?).ok_or_else(|| format!("{}: x509: malformed crl", self.list.display()))
        })?;
        none_is_on(&revoked, chain)
    }
}

pub(super) fn none_is_on(revoked: &HashSet<Vec<u8>>, chain: &[CertificateDer<'_>]) -> Result<(), String> {
    for certificate in chain {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|cause| cause.to_string())?;
        let serial = significant(parsed.raw_serial());
        if revoked.contains(serial) {
            let digits: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(format!("transport: certificate serial {digits} revoked"));
        }
    }
    Ok(())
}

/// The last common name of a certificate's subject: the one that Go keeps.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let last = parsed.subject().iter_common_name().last()?;
    last.as_str().ok().map(str::to_owned)
}

pub(super) fn is_of_host(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match (ParsedCertificate::try_from(certificate), ServerName::try_from(host)) {
        (Ok(parsed), Ok(name)) => verify_server_name(&parsed, &name).is_ok(),
        _ => false,
    }
}

/// The serial numbers on a list; None: it is none.
pub(super) fn serials(bytes: &[u8]) -> Option<HashSet<Vec<u8>>> {
    // Text as well, which etcd does not take.
    let text = bytes.starts_with(b"-----BEGIN");
    let pem = if text { Some(Pem::iter_from_buffer(bytes).next()?.ok()?) } else { None };
    let der = pem.as_ref().map_or(bytes, |pem| &pem.contents[..]);
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    Some(list.iter_revoked_certificates().map(|revoked| significant(revoked.raw_serial()).to_vec()).collect())
}

/// A number without the zeros in front that its encoding may have.
pub(super) fn significant(mut number: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = number {
        number = rest;
    }
    number
}
