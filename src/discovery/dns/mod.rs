//! DNS, as far as SRV records need it: one question to the servers of `/etc/resolv.conf`, over UDP, and over TCP where the answer
//! does not fit. Blocking. What is tried in which order and told in which words is Go's, since etcd's members ask so; the
//! system's own resolver has no way to ask for SRV records. (Go: net/dnsclient_unix.go; RFC 1035, 2782, 6891.)

pub(super) mod message;
mod system;

use std::{
    cell::Cell,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket},
    time::{Duration, Instant},
};

use self::{
    message::{Answer, Query},
    system::System,
};
use crate::{error::in_go_words, limits, random};

const NO_SUCH_HOST: &str = "no such host";

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// A name with a dot at its end.
    pub target: String,
}

pub(super) struct Resolver {
    system: System,
    /// The server that is asked first, where they are to take turns.
    turn: Cell<usize>,
}

/// Why one server's answer does not count.
enum Failure {
    /// The name is not there: others would say so, too.
    NoSuchHost,
    Other(String),
}

impl Resolver {
    pub fn of_system() -> Self {
        Resolver { system: System::read(), turn: Cell::new(0) }
    }

    /// The places of `_SERVICE._tcp.DOMAIN`, the preferred first. Those of one priority are told in order of their weights:
    /// they all are members of one cluster, and nobody chooses between them.
    ///
    /// # Errors
    /// In Go's words.
    pub fn services(&self, service: &str, domain: &str) -> Result<Vec<Service>, String> {
        let name = format!("_{service}._tcp.{domain}");
        if !is_domain_name(&name) {
            return Err(format!("lookup {name}: {NO_SUCH_HOST}"));
        }
        let mut failed = String::new();
        for full in self.system.candidates(&name) {
            match self.ask(&full) {
                Ok(mut services) => {
                    if services.iter().any(|service| !is_domain_name(&service.target)) {
                        let why = "DNS response contained records which contain invalid names";
                        return Err(format!("lookup {domain}: {why}"));
                    }
                    services.sort_by_key(|service| (service.priority, service.weight));
                    return Ok(services);
                }
                Err(cause) => failed = cause,
            }
        }
        // The name as it was asked for, not as it was completed.
        Err(format!("lookup {name}{failed}"))
    }

    /// The address of a host and port, by the hosts file and DNS; of several one of IPv4. (Go: net.ResolveTCPAddr.)
    ///
    /// # Errors
    /// In Go's words.
    pub fn address(&self, host: &str, port: u16) -> Result<SocketAddr, String> {
        let found: Vec<SocketAddr> = (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
        // The system's resolver does not tell whom it has asked.
        let server = self.system.servers[0];
        first.copied().ok_or_else(|| format!("lookup {host} on {server}: {NO_SUCH_HOST}"))
    }

    /// Asks one server after the other. The error is what follows the name.
    fn ask(&self, name: &str) -> Result<Vec<Service>, String> {
        let System { servers, attempts, rotates, .. } = &self.system;
        let first = self.turn.get();
        if *rotates {
            self.turn.set(first + 1);
        }
        let mut failed = String::new();
        for at in 0..attempts * servers.len() {
            let server = servers[(first + at) % servers.len()];
            match self.ask_server(server, name) {
                Ok(services) => return Ok(services),
                Err(Failure::NoSuchHost) => return Err(format!(" on {server}: {NO_SUCH_HOST}")),
                Err(Failure::Other(cause)) => failed = format!(" on {server}: {cause}"),
            }
        }
        Err(failed)
    }

    fn ask_server(&self, server: SocketAddr, name: &str) -> Result<Vec<Service>, Failure> {
        // Answers are told from forged ones by it, and by the port that the kernel picks.
        let id = random::unforeseen().map_err(|cause| Failure::Other(in_go_words(&cause)))? as u16;
        let query = Query::new(id, name, self.system.trusts_ad)
            .ok_or_else(|| Failure::Other("cannot marshal DNS message".into()))?;
        let timeout = self.system.timeout;
        let answer = match self.system.by_stream {
            true => over_tcp(server, &query, timeout),
            false => match over_udp(server, &query, timeout) {
                Ok(answer) if answer.is_truncated => over_tcp(server, &query, timeout),
                answer => answer,
            },
        };
        answer.map_err(Failure::Other)?.services().map_err(|cause| match cause {
            message::Unfit::NoSuchHost => Failure::NoSuchHost,
            cause => Failure::Other(cause.to_string()),
        })
    }
}

fn over_udp(server: SocketAddr, query: &Query, timeout: Duration) -> Result<Answer, String> {
    let dial = |cause: io::Error| format!("dial udp {server}: connect: {}", in_go_words(&cause));
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).map_err(dial)?;
    socket.connect(server).map_err(dial)?;
    let local = socket.local_addr().map_err(dial)?;
    let told = |call: &str, cause: io::Error| told(&format!("{call} udp {local}->{server}"), call, &cause);
    let until = Instant::now() + timeout;
    socket.send(query.bytes()).map_err(|cause| told("write", cause))?;
    let mut buffer = [0; limits::DNS_MESSAGE_BYTES];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(told("read", io::ErrorKind::TimedOut.into()));
        }
        socket.set_read_timeout(Some(left)).map_err(|cause| told("read", cause))?;
        let count = match socket.recv(&mut buffer) {
            // A receive with a time-out is not begun anew by the system after a signal.
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            received => received.map_err(|cause| told("read", cause))?,
        };
        // What is no answer to this question may be a forgery: the true one may still come.
        if let Some(answer) = query.answer(&buffer[..count]) {
            return Ok(answer);
        }
    }
}

fn over_tcp(server: SocketAddr, query: &Query, timeout: Duration) -> Result<Answer, String> {
    let until = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&server, timeout)
        .map_err(|cause| told(&format!("dial tcp {server}"), "connect", &cause))?;
    let local = stream.local_addr().map_err(|cause| in_go_words(&cause))?;
    let told = |call: &str, cause: io::Error| told(&format!("{call} tcp {local}->{server}"), call, &cause);
    let mut framed = (query.bytes().len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(query.bytes());
    stream.set_write_timeout(Some(timeout)).map_err(|cause| told("write", cause))?;
    stream.write_all(&framed).map_err(|cause| told("write", cause))?;
    let mut length = [0; 2];
    read_until(&mut stream, &mut length, until).map_err(|cause| told("read", cause))?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    read_until(&mut stream, &mut message, until).map_err(|cause| told("read", cause))?;
    query.answer(&message).ok_or_else(|| "invalid DNS response".to_owned())
}

fn read_until(stream: &mut TcpStream, mut buffer: &mut [u8], until: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer = &mut buffer[count..],
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// As Go tells of a socket that fails.
fn told(what: &str, call: &str, cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => format!("{what}: i/o timeout"),
        io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        _ => format!("{what}: {call}: {}", in_go_words(cause)),
    }
}

/// Whether it can be a name in DNS at all. (Go: net.isDomainName.)
fn is_domain_name(name: &str) -> bool {
    let rooted = name.strip_suffix('.').unwrap_or(name);
    if name == "." {
        return true;
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    rooted.len() <= 253
        && rooted.split('.').all(is_label)
        && rooted.bytes().any(|byte| byte.is_ascii_alphabetic() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn resolver(servers: Vec<SocketAddr>) -> Resolver {
        let timeout = Duration::from_millis(200);
        Resolver { system: System { servers, timeout, attempts: 1, ..System::default() }, turn: Cell::new(0) }
    }

    /// A server that answers each question as it is told to, and the address that it is asked at.
    fn server(mut answer: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((count, whence)) = socket.recv_from(&mut buffer) {
                let answer = answer(&buffer[..count]);
                if !answer.is_empty() {
                    socket.send_to(&answer, whence).unwrap();
                }
            }
        });
        address
    }

    /// An answer with this code and these records, of the priorities and targets given.
    fn answer(question: &[u8], code: u8, services: &[(u16, &str)]) -> Vec<u8> {
        message::tests::answer(question, code, services)
    }

    #[test]
    fn services_are_told_in_order() {
        let address = server(|question| answer(question, 0, &[(3, "c.test"), (1, "a.test"), (2, "b.test")]));
        let found = resolver(vec![address]).services("etcd-server", "example.test").unwrap();
        let targets: Vec<&str> = found.iter().map(|service| service.target.as_str()).collect();
        assert_eq!(targets, ["a.test.", "b.test.", "c.test."]);
    }

    #[test]
    fn the_next_server_is_asked_where_one_fails_and_not_where_it_knows_of_nothing() {
        let broken = server(|question| answer(question, 2, &[]));
        let silent = server(|_| Vec::new());
        let knowing = server(|question| answer(question, 0, &[(1, "a.test")]));
        let empty = server(|question| answer(question, 3, &[]));
        let ask = |servers| resolver(servers).services("s", "t").map(|found| found.len());
        assert_eq!(ask(vec![broken, silent, knowing]), Ok(1));
        assert_eq!(ask(vec![empty, knowing]), Err(format!("lookup _s._tcp.t on {empty}: no such host")));
        assert_eq!(ask(vec![silent, broken]), Err(format!("lookup _s._tcp.t on {broken}: server misbehaving")));
        let timed_out = ask(vec![silent]).unwrap_err();
        assert!(timed_out.starts_with(&format!("lookup _s._tcp.t on {silent}: read udp 127.0.0.1:")), "{timed_out}");
        assert!(timed_out.ends_with(&format!("->{silent}: i/o timeout")), "{timed_out}");
    }

    #[test]
    fn names_are_what_go_takes_for_names() {
        for name in ["a", "_s._tcp.a-b.c", "a.", ".", "1a", &format!("{}.b", "a".repeat(63))] {
            assert!(is_domain_name(name), "{name}");
        }
        let long = ["a".repeat(63).as_str(); 4].join(".");
        for name in ["", "a b", "a..b", ".a", "-a.b", "a-.b", "1.2", "ü", &"a".repeat(64), &long] {
            assert!(!is_domain_name(name), "{name}");
        }
    }
}
