//! TLS before a protocol is spoken: a handshake within a bounded time, then the checks that etcd makes of a client's
//! certificate, then plain bytes for whoever serves them. rustls does the work; files are read again when they change,
//! as etcd reads its own at every handshake. (etcd: client/pkg/transport.)

mod admission;
mod caller;
mod clients;
mod fuzz;
mod keys;
mod made;
mod origin;
mod reread;
mod stream;

use std::{net::IpAddr, path::Path, rc::Rc, sync::Arc, time::Duration};

use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::NoServerSessionStorage,
    version,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use self::{admission::Admission, keys::KeyFiles};
pub use self::{caller::Caller, fuzz::fuzz_certificates, made::make_certificate, stream::Secured};
use crate::{
    config::tls::{Files, Tls, Version},
    error::cannot_open,
    limits, runtime,
};

/// What protocols are spoken within (RFC 7301), the preferred one first. A client that says nothing may speak either.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What members speak within: a member that is written in Go offers nothing, or HTTP/1.1.
const PEER_PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];

/// Guards the listeners of one side: makes encrypted connections of accepted ones. Shared by all cores.
pub struct Guard {
    acceptor: TlsAcceptor,
    admission: Admission,
    /// The common names of clients' certificates are users' names.
    names_users: bool,
}

impl Guard {
    /// For clients. Reads and checks every file once, so that what is wrong is told at the start.
    ///
    /// # Errors
    /// Which file, and what is wrong with it.
    pub fn new(tls: &Tls, files: &Files) -> Result<Self, String> {
        Guard::speaking(&PROTOCOLS, tls, files)
    }

    /// The same for other members.
    ///
    /// # Errors
    /// As above.
    pub fn for_peers(tls: &Tls, files: &Files) -> Result<Self, String> {
        Guard::speaking(&PEER_PROTOCOLS, tls, files)
    }

    fn speaking(protocols: &[&[u8]], tls: &Tls, files: &Files) -> Result<Self, String> {
        let provider = Arc::new(provider(tls));
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions(tls))
            .map_err(unfit)?;
        let builder = match files.demands_certificates() {
            true => builder.with_client_cert_verifier(clients::verifier(&files.trusted_ca, &provider)?),
            false => builder.with_no_client_auth(),
        };
        if !files.client_cert.as_os_str().is_empty() {
            KeyFiles::new(&files.client_cert, &files.client_key, provider.clone())?;
        }
        let keys = KeyFiles::new(&files.cert, &files.key, provider)?;
        let mut config = builder.with_cert_resolver(Arc::new(keys));
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // A session is resumed from what the client keeps: nothing is kept for it here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer =
            aws_lc_rs::Ticketer::new().map_err(|cause| format!("cannot make session tickets: {cause}"))?;
        config.send_tls13_tickets = 1;
        Ok(Guard {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            admission: Admission::new(files),
            // Of the flag itself: that certificates are demanded for other reasons does not make users of them.
            names_users: files.client_cert_auth,
        })
    }

    /// Shakes hands within `limits::TLS_HANDSHAKE_SECONDS_MAX`. On an error the connection is closed: it is dropped.
    ///
    /// `from`: the address that a client's certificate has to be of; None: of any.
    ///
    /// # Errors
    /// Why it is not let in, for the log.
    pub async fn admit<S>(&self, io: S, from: Option<IpAddr>) -> Result<Secured<S>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let limit = Duration::from_secs(limits::TLS_HANDSHAKE_SECONDS_MAX);
        let stream = match runtime::timeout(limit, self.acceptor.accept(io)).await {
            Some(Ok(stream)) => stream,
            Some(Err(cause)) => return Err(cause.to_string()),
            None => return Err("the handshake takes too long".into()),
        };
        // Of a resumed session too, for which rustls itself looks at no certificate.
        if let Some(chain) = stream.get_ref().1.peer_certificates() {
            self.admission.check(chain)?;
            if let (Some(own), Some(from)) = (chain.first(), from) {
                let limit = Duration::from_secs(limits::NAME_LOOKUP_SECONDS_MAX);
                let looked_at = runtime::timeout(limit, origin::check(own, from.to_canonical()));
                looked_at.await.ok_or("looking up the certificate's names takes too long")??;
            }
        }
        Ok(Secured::new(stream))
    }

    /// The user that a client's certificate names; empty if it has no common name, None if certificates name nobody.
    pub fn user_of<S>(&self, io: &Secured<S>) -> Option<Rc<str>> {
        let own = io.certificates().first().filter(|_| self.names_users)?;
        Some(admission::common_name(own).unwrap_or_default().into())
    }
}

/// The field's usual cryptography, less what `--cipher-suites` leaves out of TLS 1.2.
fn provider(tls: &Tls) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if !tls.suites.is_empty() {
        provider.cipher_suites.retain(|suite| {
            let name = format!("{:?}", suite.suite());
            suite.tls13().is_some() || tls.suites.contains(&name.as_str())
        });
    }
    provider
}

fn versions(tls: &Tls) -> Vec<&'static SupportedProtocolVersion> {
    [(Version::Tls12, &version::TLS12), (Version::Tls13, &version::TLS13)]
        .into_iter()
        .filter(|(version, _)| *version >= tls.version_min && tls.version_max.is_none_or(|max| *version <= max))
        .map(|(_, supported)| supported)
        .collect()
}

fn unfit(cause: rustls::Error) -> String {
    format!("these TLS versions and cipher suites do not fit together: {cause}")
}

/// The bytes of a file of certificates or keys.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(cannot_open(path))
}

#[cfg(test)]
mod tests;
