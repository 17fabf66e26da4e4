//! Names of addresses and addresses of names, as the system's resolver has them. It blocks for as long as DNS takes, so that
//! each look-up has a thread of its own: the threads that read values wait for none of them.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::atomic::{AtomicUsize, Ordering::AcqRel},
    thread,
};

use super::{os, pool};
use crate::limits;

/// The file that is asked before DNS.
const HOSTS: &str = "/etc/hosts";

static LOOKING_UP: AtomicUsize = AtomicUsize::new(0);

/// The names of an address: all that the hosts file has, or else the one that DNS tells.
pub async fn of_address(address: IpAddr) -> io::Result<Vec<String>> {
    aside(move || {
        let hosts = fs::read_to_string(HOSTS).unwrap_or_default();
        let names = names_in(&hosts, address);
        if names.is_empty() { os::name_of(address).map(|name| vec![name]) } else { Ok(names) }
    })
    .await
}

/// The addresses of a name.
pub async fn addresses_of(name: String) -> io::Result<Vec<IpAddr>> {
    aside(move || {
        let addresses = (name.as_str(), 0).to_socket_addrs()?;
        Ok(addresses.map(|address: SocketAddr| address.ip().to_canonical()).collect())
    })
    .await
}

/// What a hosts file calls an address. (hosts(5).)
fn names_in(hosts: &str, address: IpAddr) -> Vec<String> {
    let mut names = Vec::new();
    for line in hosts.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        if words.next().and_then(|word| word.parse::<IpAddr>().ok()) == Some(address) {
            names.extend(words.map(str::to_owned));
        }
    }
    names
}

/// Counts a look-up for as long as it takes, also if nobody waits for it any more.
struct Turn;

impl Turn {
    fn take() -> io::Result<Self> {
        if LOOKING_UP.fetch_add(1, AcqRel) >= limits::NAME_LOOKUPS_MAX {
            LOOKING_UP.fetch_sub(1, AcqRel);
            return Err(io::Error::other("too many names are being looked up"));
        }
        Ok(Turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        LOOKING_UP.fetch_sub(1, AcqRel);
    }
}

async fn aside<T: Send + 'static>(look_up: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let turn = Turn::take()?;
    let (answer, outcome) = pool::answer();
    thread::Builder::new().name("names".into()).spawn(move || {
        let found = look_up();
        drop(turn);
        answer(found);
    })?;
    outcome.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime;

    #[test]
    fn a_hosts_file_is_read_as_it_is_meant() {
        let hosts = "127.0.0.1\tlocalhost here # there\n#127.0.0.1 no\n\n::1 localhost six\n127.0.0.1 more\nx y\n";
        assert_eq!(names_in(hosts, "127.0.0.1".parse().unwrap()), ["localhost", "here", "more"]);
        assert_eq!(names_in(hosts, "::1".parse().unwrap()), ["localhost", "six"]);
        assert!(names_in(hosts, "127.0.0.2".parse().unwrap()).is_empty());
    }

    #[test]
    fn this_machine_is_found_and_nobody_is_not() {
        runtime::run(async {
            let here: IpAddr = "127.0.0.1".parse().unwrap();
            assert!(addresses_of("localhost".into()).await.unwrap().contains(&here));
            assert!(of_address(here).await.unwrap().iter().any(|name| name.starts_with("localhost")));
            // Never there (RFC 2606).
            addresses_of("nobody.invalid".into()).await.unwrap_err();
        });
    }
}
