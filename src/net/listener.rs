//! A listening address, and the task that accepts on it. Each connection is handed to the least-loaded shard; when all
//! seats are taken nothing is accepted, so that clients wait in the kernel's queue instead of being cut off.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::seats::{Seat, Seats};
use crate::{
    error::in_go_words,
    limits,
    runtime::{
        self,
        socket::{Accepted, Address, Bound, ListenError},
    },
};

/// An address that is listened on, not yet accepted from; it can be taken to any executor.
#[derive(Debug)]
pub struct Listener {
    bound: Bound,
    path: Option<SocketPath>,
}

/// A connection with its seat, on its way to the seat's shard.
#[derive(Debug)]
pub struct Arrival {
    pub accepted: Accepted,
    pub seat: Seat,
}

impl Listener {
    /// Listens on `http://host:port`, `https://host:port`, `unix://path`, `unixs://path` (`unix:path` too); what the
    /// scheme says about TLS is for others. As Go's net.Listen: a name that has several addresses gives its first
    /// IPv4 one; a wildcard of either family takes both; an error reads as Go's does. As etcd: a socket left behind
    /// at a path is replaced.
    ///
    /// `shared`: the port may be shared with other processes that say so too; a path never is.
    pub fn bind(url: &str, shared: bool) -> Result<Self, BindError> {
        let (scheme, rest) = url.split_once(':').ok_or_else(|| BindError::Url(url.to_owned()))?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        match scheme {
            "http" | "https" => Listener::bind_inet(url, rest.strip_suffix('/').unwrap_or(rest), shared),
            "unix" | "unixs" if !rest.is_empty() => Listener::bind_unix(Path::new(rest)),
            _ => Err(BindError::Url(url.to_owned())),
        }
    }

    fn bind_inet(url: &str, authority: &str, shared: bool) -> Result<Self, BindError> {
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| BindError::Url(url.to_owned()))?;
        let port: u16 = port.parse().map_err(|_| BindError::Url(url.to_owned()))?;
        let (address, wildcard) = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host) {
            "" => (SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), true),
            host => {
                let address = resolve(host, port)?;
                (address, address.ip().is_unspecified())
            }
        };
        let failed = |error: ListenError| BindError::Listen {
            network: "tcp",
            // Go writes an empty host as it was given.
            address: if host.is_empty() { format!(":{port}") } else { address.to_string() },
            error,
        };
        if wildcard {
            let both = SocketAddr::from((IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
            match Bound::inet(both, limits::LISTEN_BACKLOG, shared) {
                Ok(bound) => return Ok(Listener { bound, path: None }),
                // No IPv6 here: what was asked for, then.
                Err(error) if no_ipv6(&error.source) && address.is_ipv4() => {}
                Err(error) if no_ipv6(&error.source) && host.is_empty() => {
                    let all = SocketAddr::from(([0, 0, 0, 0], port));
                    let bound = Bound::inet(all, limits::LISTEN_BACKLOG, shared).map_err(failed)?;
                    return Ok(Listener { bound, path: None });
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let bound = Bound::inet(address, limits::LISTEN_BACKLOG, shared).map_err(failed)?;
        Ok(Listener { bound, path: None })
    }

    fn bind_unix(path: &Path) -> Result<Self, BindError> {
        let failed = |error| BindError::Listen { network: "unix", address: path.display().to_string(), error };
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed(ListenError { call: "remove", source })),
        }
        let bound = Bound::unix(path, limits::LISTEN_BACKLOG).map_err(failed)?;
        Ok(Listener { bound, path: Some(SocketPath(path.to_owned())) })
    }

    /// Where it listens, the port that the system chose included.
    pub fn local(&self) -> &Address {
        self.bound.local()
    }

    /// Accepts for ever on this executor, giving each connection a seat and handing it over. Dropping the future ends
    /// the listening. An error only if the executor cannot take the socket.
    pub async fn accept_all(self, seats: Arc<Seats>, mut hand_over: impl FnMut(Arrival)) -> io::Result<()> {
        let Listener { bound, path: _path } = self;
        let listening = bound.adopt()?;
        let mut rest = Duration::from_millis(limits::ACCEPT_REST_MILLISECONDS_MIN);
        let mut in_a_row = 0;
        loop {
            let Some(reserved) = seats.reserve() else {
                runtime::sleep(Duration::from_millis(limits::FULL_REST_MILLISECONDS)).await;
                continue;
            };
            match listening.accept().await {
                Ok(accepted) => {
                    rest = Duration::from_millis(limits::ACCEPT_REST_MILLISECONDS_MIN);
                    hand_over(Arrival { accepted, seat: reserved.sit() });
                }
                // That one connection is gone; the next may be fine.
                Err(error) if of_the_connection(&error) => {}
                Err(_) => {
                    drop(reserved);
                    runtime::sleep(rest).await;
                    rest = (rest * 2).min(Duration::from_millis(limits::ACCEPT_REST_MILLISECONDS_MAX));
                }
            }
            in_a_row += 1;
            if in_a_row == limits::ACCEPT_BURST {
                in_a_row = 0;
                runtime::yield_now().await;
            }
        }
    }
}

/// The first IPv4 address of a name, else its first.
fn resolve(host: &str, port: u16) -> Result<SocketAddr, BindError> {
    let failed = || BindError::Lookup(host.to_owned());
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(|_| failed())?.collect();
    let first_v4 = addresses.iter().find(|address| address.is_ipv4());
    first_v4.or(addresses.first()).copied().ok_or_else(failed)
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// What accept(2) passes on from the network about the connection it was to return.
fn of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
        )
    )
}

/// Removed with the listener, as Go does.
#[derive(Debug)]
struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        // Somebody may have removed it before; nothing depends on it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Why an address cannot be listened on; reads as Go's errors do.
#[derive(Debug)]
pub enum BindError {
    Url(String),
    Lookup(String),
    Listen { network: &'static str, address: String, error: ListenError },
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::Url(url) => write!(f, "cannot listen on {url:?}: not http://host:port or unix://path"),
            BindError::Lookup(host) => write!(f, "listen tcp: lookup {host}: no such host"),
            BindError::Listen { network, address, error } => {
                write!(f, "listen {network} {address}: {}: {}", error.call, in_go_words(&error.source))
            }
        }
    }
}

impl std::error::Error for BindError {}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
