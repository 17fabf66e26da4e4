//! `/etc/resolv.conf`: whom to ask, how long, and what a short name may stand for. (resolv.conf(5); Go: net/dnsconfig_unix.go.)

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use crate::limits;

const PATH: &str = "/etc/resolv.conf";
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
const PORT: u16 = 53;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct System {
    /// At least one.
    pub servers: Vec<SocketAddr>,
    /// Domains in which a name is looked for, each with a dot at its end.
    pub search: Vec<String>,
    /// With so many dots a name is looked for as it stands first.
    pub dots: usize,
    pub timeout: Duration,
    pub attempts: usize,
    /// Servers take turns in being asked first.
    pub rotates: bool,
    pub by_stream: bool,
    pub trusts_ad: bool,
}

impl Default for System {
    fn default() -> Self {
        let local = |ip: IpAddr| SocketAddr::new(ip, PORT);
        System {
            servers: vec![local(Ipv4Addr::LOCALHOST.into()), local(Ipv6Addr::LOCALHOST.into())],
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotates: false,
            by_stream: false,
            trusts_ad: false,
        }
    }
}

impl System {
    pub fn read() -> Self {
        let mut system = System::of(&fs::read_to_string(PATH).unwrap_or_default());
        if system.search.is_empty() {
            let host = fs::read_to_string(HOST_NAME).unwrap_or_default();
            let domain = host.trim_end().split_once('.').map(|(_, domain)| domain).filter(|domain| !domain.is_empty());
            system.search.extend(domain.map(rooted));
        }
        system
    }

    fn of(text: &str) -> Self {
        let mut system = System::default();
        let mut servers = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with([';', '#'])) {
            let mut words = line.split([' ', '\t', '\r']).filter(|word| !word.is_empty());
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(address_of);
                    servers.extend(address.filter(|_| servers.len() < limits::DNS_SERVERS_MAX));
                }
                Some("domain") => {
                    if let Some(domain) = words.next() {
                        system.search = vec![rooted(domain)];
                    }
                }
                Some("search") => {
                    system.search = words.map(rooted).filter(|domain| domain != ".").collect();
                }
                Some("options") => words.for_each(|word| system.take_option(word)),
                _ => {}
            }
        }
        if !servers.is_empty() {
            system.servers = servers;
        }
        system
    }

    fn take_option(&mut self, word: &str) {
        let (name, number) = word.split_once(':').unwrap_or((word, ""));
        // What follows the digits is passed over; without any it counts as none.
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        let number = number[..digits].parse::<u64>().unwrap_or(if digits == 0 { 0 } else { u64::MAX });
        match name {
            "ndots" => self.dots = number.min(limits::DNS_DOTS_MAX) as usize,
            "timeout" => self.timeout = Duration::from_secs(number.clamp(1, limits::DNS_TIMEOUT_SECONDS_MAX)),
            "attempts" => self.attempts = number.clamp(1, limits::DNS_ATTEMPTS_MAX) as usize,
            "rotate" => self.rotates = true,
            "use-vc" | "usevc" | "tcp" => self.by_stream = true,
            "trust-ad" => self.trusts_ad = true,
            _ => {}
        }
    }

    /// The full names that a name may stand for, in the order in which they are tried.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let has_dots = name.matches('.').count() >= self.dots;
        let own = rooted(name);
        let within = self.search.iter().map(|domain| format!("{own}{domain}"));
        let mut names: Vec<String> = within.filter(|name| name.len() <= limits::DNS_NAME_BYTES_MAX).collect();
        names.insert(if has_dots { 0 } else { names.len() }, own);
        names
    }
}

fn rooted(name: &str) -> String {
    if name.ends_with('.') { name.to_owned() } else { format!("{name}.") }
}

/// An address, of IPv6 perhaps with the number of its interface.
fn address_of(word: &str) -> Option<SocketAddr> {
    match word.split_once('%') {
        None => word.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT)),
        Some((ip, zone)) => format!("[{ip}%{}]:{PORT}", index_of(zone)?).parse().ok(),
    }
}

fn index_of(interface: &str) -> Option<u32> {
    interface.parse().ok().or_else(|| {
        let path = format!("/sys/class/net/{interface}/ifindex");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(system: &System) -> Vec<String> {
        system.servers.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn a_file_is_read_as_it_is_meant() {
        let system = System::of(
            "# nameserver 9.9.9.9\n;x\nnameserver 10.0.0.1\nnameserver\t::1 \nnameserver no\nnameserver 10.0.0.3\n\
             nameserver 10.0.0.4\ndomain first.test\nsearch . a.test b.test.\noptions ndots:2 timeout:3x attempts:9 rotate\n\
             options use-vc trust-ad edns0\nsortlist 1.2.3.4\n",
        );
        assert_eq!(servers(&system), ["10.0.0.1:53", "[::1]:53", "10.0.0.3:53"]);
        assert_eq!(system.search, ["a.test.", "b.test."]);
        assert_eq!((system.dots, system.timeout, system.attempts), (2, Duration::from_secs(3), 5));
        assert!(system.rotates && system.by_stream && system.trusts_ad);
        assert_eq!(System::of(""), System::default());
        let system = System::of("domain a.test\noptions ndots:x timeout:0 attempts\nnameserver fe80::1%1\n");
        assert_eq!((system.dots, system.timeout, system.attempts), (0, Duration::from_secs(1), 1));
        assert_eq!((servers(&system), system.search), (vec!["[fe80::1%1]:53".into()], vec!["a.test.".into()]));
    }

    #[test]
    fn a_name_is_looked_for_as_it_stands_first_where_it_has_dots_enough() {
        let mut system = System { search: vec!["a.".into(), "b.".into()], ..System::default() };
        assert_eq!(system.candidates("x.y"), ["x.y.", "x.y.a.", "x.y.b."]);
        assert_eq!(system.candidates("x"), ["x.a.", "x.b.", "x."]);
        assert_eq!(system.candidates("x."), ["x."]);
        system.search = vec!["a".repeat(251), "b.".into()];
        assert_eq!(system.candidates("x.y"), ["x.y.", "x.y.b."]);
    }
}
