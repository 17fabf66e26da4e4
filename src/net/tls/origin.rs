//! Whether a certificate is of the address that its connection comes from: one of its addresses, or one of its names by what
//! DNS says of either. A certificate of neither is of any address. (etcd: client/pkg/transport/listener_tls.go, checkCertSAN.)

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::runtime::names;

/// # Errors
/// As etcd logs them: of whom the certificate is instead.
pub(super) async fn check(certificate: &CertificateDer<'_>, from: IpAddr) -> Result<(), String> {
    let Subjects { addresses, names } = Subjects::of(certificate)?;
    if addresses.is_empty() && names.is_empty() || addresses.contains(&from) {
        return Ok(());
    }
    if names.is_empty() {
        let valid: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        return Err(format!("x509: certificate is valid for {}, not {from}", valid.join(", ")));
    }
    let why = match is_named(from, &names).await {
        Ok(true) => return Ok(()),
        Ok(false) => String::new(),
        Err(cause) => format!(" ({cause})"),
    };
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    Err(format!("tls: {:?} does not match any of DNSNames [{}]{why}", from.to_string(), quoted.join(" ")))
}

/// Whom a certificate is of, by its subject alternative names.
struct Subjects {
    addresses: Vec<IpAddr>,
    names: Vec<String>,
}

impl Subjects {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|cause| cause.to_string())?;
        let mut subjects = Subjects { addresses: Vec::new(), names: Vec::new() };
        let extension = parsed.subject_alternative_name().map_err(|cause| cause.to_string())?;
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => subjects.names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                    let address = address.map_err(|_| "x509: cannot parse IP address".to_owned())?;
                    subjects.addresses.push(address.to_canonical());
                }
                _ => {}
            }
        }
        Ok(subjects)
    }
}

/// Whether the address is called by one of the names, or one of the names is at the address.
///
/// # Errors
/// The last thing that could not be found, where nothing was found that would do.
async fn is_named(from: IpAddr, wanted: &[String]) -> Result<bool, String> {
    let (wildcards, exact): (Vec<&String>, Vec<&String>) = wanted.iter().partition(|name| name.starts_with("*."));
    let mut failure = None;
    match names::of_address(from).await {
        Ok(called) => {
            let mut called = called.iter().map(|name| name.strip_suffix('.').unwrap_or(name));
            let fits = |name: &str| {
                exact.iter().any(|wanted| *wanted == name)
                    || wildcards.iter().any(|wanted| name.ends_with(&wanted[1..]))
            };
            if called.any(fits) {
                return Ok(true);
            }
        }
        Err(cause) => failure = Some(cause.to_string()),
    }
    for name in exact {
        match names::addresses_of(name.clone()).await {
            Ok(addresses) if addresses.contains(&from) => return Ok(true),
            Ok(_) => {}
            Err(_) => failure = Some(format!("lookup {name}: no such host")),
        }
    }
    failure.map_or(Ok(false), Err)
}
