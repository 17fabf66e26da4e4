//! What the flags say about TLS: which files, which versions, which suites. Names and refusals are etcd's; no file is
//! looked at here. (etcd: embed.Config.Validate; client/pkg/tlsutil; Go: crypto/tls, the names of suites.)

use std::path::PathBuf;

use super::{ConfigError, parse::Settings};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// For clients.
    pub client: Files,
    /// For other members.
    pub peer: Files,
    /// The certificate of another member need not be of the address that it comes from.
    pub peers_from_anywhere: bool,
    /// What the certificates of others are to be of, whatever their URLs say: the domain by which they were discovered.
    pub peer_name: Option<String>,
    pub version_min: Version,
    /// None: the newest there is.
    pub version_max: Option<Version>,
    /// Suites of TLS 1.2, by their names; empty: all. Those of TLS 1.3 cannot be chosen.
    pub suites: Vec<&'static str>,
    /// How long a certificate that is made here is valid, in years of 365 days.
    pub self_signed_years: u64,
}

/// One side's files. An empty path: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// What is shown where this side is the client; without, `cert` and `key`.
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
    pub trusted_ca: PathBuf,
    pub crl: PathBuf,
    /// The other side has to show a certificate. `trusted_ca` alone demands that, too.
    pub client_cert_auth: bool,
    /// A certificate is made if none is given.
    pub auto: bool,
    pub allowed_common_names: Vec<String>,
    pub allowed_hostnames: Vec<String>,
}

impl Files {
    pub fn has_pair(&self) -> bool {
        !self.cert.as_os_str().is_empty() || !self.key.as_os_str().is_empty()
    }

    pub fn demands_certificates(&self) -> bool {
        self.client_cert_auth || !self.trusted_ca.as_os_str().is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Tls12,
    Tls13,
}

impl Default for Tls {
    fn default() -> Self {
        Tls {
            client: Files::default(),
            peer: Files::default(),
            peers_from_anywhere: false,
            peer_name: None,
            version_min: Version::Tls12,
            version_max: None,
            suites: Vec::new(),
            self_signed_years: 1,
        }
    }
}

/// Go's names of the suites of TLS 1.2 that are served.
const SUITES: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Go's older names of two of them.
const OLDER_NAMES: &[(&str, &str)] = &[
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// Those of TLS 1.3, which are always on: Go takes their names and makes nothing of them.
const SUITES_13: &[&str] = &["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Those that Go knows and rustls does not have: without forward secrecy, or with CBC, RC4 or 3DES.
const SUITES_MISSING: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

pub(super) fn read(settings: &Settings) -> Result<Tls, ConfigError> {
    let version_min = version(settings.text("tls-min-version"))?;
    let version_max = version(settings.text("tls-max-version"))?;
    if let (Some(min), Some(max)) = (version_min, version_max)
        && min > max
    {
        let (min, max) = (settings.text("tls-min-version"), settings.text("tls-max-version"));
        return Err(ConfigError::invalid(format!("min version ({min}) is greater than max version ({max})")));
    }
    let names = list(settings, "cipher-suites");
    if version_min == Some(Version::Tls13) && !names.is_empty() {
        return Err(ConfigError::invalid("cipher suites cannot be configured when only TLS1.3 is enabled"));
    }
    let path = |name| PathBuf::from(settings.text(name));
    let tls = Tls {
        client: Files {
            cert: path("cert-file"),
            key: path("key-file"),
            client_cert: path("client-cert-file"),
            client_key: path("client-key-file"),
            trusted_ca: path("trusted-ca-file"),
            crl: path("client-crl-file"),
            client_cert_auth: settings.flag("client-cert-auth"),
            auto: settings.flag("auto-tls"),
            allowed_common_names: Vec::new(),
            allowed_hostnames: list(settings, "client-cert-allowed-hostname"),
        },
        peer: Files {
            cert: path("peer-cert-file"),
            key: path("peer-key-file"),
            client_cert: path("peer-client-cert-file"),
            client_key: path("peer-client-key-file"),
            trusted_ca: path("peer-trusted-ca-file"),
            crl: path("peer-crl-file"),
            client_cert_auth: settings.flag("peer-client-cert-auth"),
            auto: settings.flag("peer-auto-tls"),
            allowed_common_names: list(settings, "peer-cert-allowed-cn"),
            allowed_hostnames: list(settings, "peer-cert-allowed-hostname"),
        },
        peers_from_anywhere: settings.flag("peer-skip-client-san-verification"),
        peer_name: None,
        version_min: version_min.unwrap_or(Version::Tls12),
        version_max,
        suites: suites(&names)?,
        self_signed_years: settings.uint("self-signed-cert-validity"),
    };
    for files in [&tls.client, &tls.peer] {
        check(files)?;
    }
    for (files, flag) in [(&tls.client, "auto-tls"), (&tls.peer, "peer-auto-tls")] {
        if files.auto && !files.has_pair() && tls.self_signed_years == 0 {
            return Err(ConfigError::invalid("selfSignedCertValidity is invalid,it should be greater than 0")
                .hint(format!("--{flag} makes a certificate: give --self-signed-cert-validity at least one year")));
        }
    }
    Ok(tls)
}

fn list(settings: &Settings, name: &'static str) -> Vec<String> {
    settings.text(name).split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn version(text: &str) -> Result<Option<Version>, ConfigError> {
    match text {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(Version::Tls12)),
        "TLS1.3" => Ok(Some(Version::Tls13)),
        _ => Err(ConfigError::invalid(format!("unexpected TLS version {text:?} (must be one of: TLS1.2, TLS1.3)"))),
    }
}

fn suites(names: &[String]) -> Result<Vec<&'static str>, ConfigError> {
    let mut chosen = Vec::new();
    for name in names {
        let newer = OLDER_NAMES.iter().find(|(older, _)| older == name).map_or(name.as_str(), |(_, newer)| newer);
        match SUITES.iter().find(|suite| **suite == newer) {
            Some(suite) => chosen.push(*suite),
            None if SUITES_13.contains(&newer) => {}
            None if SUITES_MISSING.contains(&newer) => {
                return Err(ConfigError::invalid(format!("TLS cipher suite {name:?} cannot be served by urd"))
                    .hint(format!("leave it out of --cipher-suites; there are {}", SUITES.join(", "))));
            }
            None => return Err(ConfigError::invalid(format!("unexpected TLS cipher suite {name:?}"))),
        }
    }
    Ok(chosen)
}

fn check(files: &Files) -> Result<(), ConfigError> {
    let Files { allowed_common_names: names, allowed_hostnames: hosts, .. } = files;
    if !names.is_empty() && !hosts.is_empty() {
        return Err(ConfigError::invalid(format!(
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns={names:?}, hostnames={hosts:?})"
        )));
    }
    if files.has_pair() && (files.cert.as_os_str().is_empty() || files.key.as_os_str().is_empty()) {
        return Err(ConfigError::invalid(format!(
            "KeyFile and CertFile must both be present[key: {}, cert: {}]",
            files.key.display(),
            files.cert.display()
        )));
    }
    if files.client_cert.as_os_str().is_empty() != files.client_key.as_os_str().is_empty() {
        return Err(ConfigError::invalid(format!(
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: {}, cert: {}]",
            files.client_key.display(),
            files.client_cert.display()
        )));
    }
    Ok(())
}
