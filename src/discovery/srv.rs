//! Members from DNS: the SRV records of a domain name all of them, this one too. (etcd: embed.Config.GetDNSClusterNames;
//! client/pkg/srv.)

use std::{collections::HashMap, net::SocketAddr};

use super::dns::{Resolver, Service};
use crate::{
    config::{discovery::Dns, url},
    log,
};

/// What is asked of DNS.
trait Directory {
    fn services(&self, service: &str, domain: &str) -> Result<Vec<Service>, String>;
    fn address(&self, host: &str, port: u16) -> Result<SocketAddr, String>;
}

impl Directory for Resolver {
    fn services(&self, service: &str, domain: &str) -> Result<Vec<Service>, String> {
        Resolver::services(self, service, domain)
    }

    fn address(&self, host: &str, port: u16) -> Result<SocketAddr, String> {
        Resolver::address(self, host, port)
    }
}

/// The members of a domain as `--initial-cluster` would name them: those that are called encrypted, then the others. This
/// member has its name, the others have numbers: nobody tells their names. Blocks for as long as DNS takes.
///
/// # Errors
/// Why there are none, for either kind.
pub fn cluster(dns: &Dns, name: &str, advertised: &[String]) -> Result<String, String> {
    cluster_in(&Resolver::of_system(), dns, name, advertised)
}

fn cluster_in(directory: &impl Directory, dns: &Dns, name: &str, advertised: &[String]) -> Result<String, String> {
    let mut nodes = Vec::new();
    let mut failed = Vec::new();
    for (scheme, kind) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let service = match dns.service_suffix.as_str() {
            "" => kind.to_owned(),
            suffix => format!("{kind}-{suffix}"),
        };
        let found = nodes_of(directory, scheme, &service, &dns.domain, name, advertised);
        let cause = match found {
            Ok(found) => {
                nodes.extend(found);
                None
            }
            Err(cause) => Some(format!("error querying DNS SRV records for _{service} {cause}")),
        };
        tell(
            &format!("get cluster for {kind} SRV"),
            (scheme, &service),
            dns,
            (name, advertised),
            &nodes,
            cause.as_ref(),
        );
        failed.extend(cause);
    }
    let failed = failed.join("\n");
    if !failed.is_empty() {
        log!(Warn, "failed to resolve during SRV discovery", "error" = failed.as_str());
    }
    if nodes.is_empty() {
        return Err(failed);
    }
    for node in &nodes {
        log!(Info, "got bootstrap from DNS for etcd-server", "node" = node.as_str());
    }
    Ok(nodes.join(","))
}

fn tell(
    message: &str,
    (scheme, service): (&str, &str),
    dns: &Dns,
    (name, advertised): (&str, &[String]),
    nodes: &[String],
    error: Option<&String>,
) {
    macro_rules! tell {
        ($($key:literal = $value:expr),*) => {
            log!(
                Info,
                message,
                "service-scheme" = scheme,
                "service-name" = service,
                "server-name" = name,
                "discovery-srv" = dns.domain,
                "advertise-peer-urls" = advertised,
                "found-cluster" = nodes
                $(, $key = $value)*
            )
        };
    }
    match error {
        Some(error) => tell!("error" = error),
        None => tell!(),
    }
}

/// One kind's members. Of several records some may be of no use; that is a failure if none is left. (etcd: srv.GetCluster.)
fn nodes_of(
    directory: &impl Directory,
    scheme: &str,
    service: &str,
    domain: &str,
    name: &str,
    advertised: &[String],
) -> Result<Vec<String>, String> {
    let mut own = HashMap::new();
    for text in advertised {
        let url = url::parse(text)?;
        let (host, port) = url.host_and_port();
        // What is no place in a network is in no record.
        if let Ok(port) = port.parse() {
            own.insert(directory.address(host, port)?, url);
        }
    }
    let mut nodes = Vec::new();
    let mut failed = String::new();
    let mut number = 0;
    for Service { target, port, .. } in directory.services(service, domain)? {
        let address = match directory.address(&target, port) {
            Ok(address) => address,
            Err(cause) => {
                failed = cause;
                continue;
            }
        };
        let known = own.get(&address);
        let node_name = match known {
            Some(_) if !name.is_empty() => name.to_owned(),
            _ => {
                number += 1;
                format!("{}", number - 1)
            }
        };
        let place = format!("{scheme}://{}:{port}", target.strip_suffix('.').unwrap_or(&target));
        match known.filter(|url| url.scheme != scheme) {
            Some(url) => {
                failed =
                    format!("bootstrap at {place} from DNS for {service} has scheme mismatch with expected peer {url}");
            }
            None => nodes.push(format!("{node_name}={place}")),
        }
    }
    if nodes.is_empty() { Err(failed) } else { Ok(nodes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records by the service's name, and hosts by theirs.
    struct Zone {
        services: Vec<(&'static str, Vec<(&'static str, u16)>)>,
        hosts: Vec<(&'static str, [u8; 4])>,
    }

    impl Directory for Zone {
        fn services(&self, service: &str, domain: &str) -> Result<Vec<Service>, String> {
            assert_eq!(domain, "d.test");
            let known = self.services.iter().find(|(known, _)| *known == service).ok_or("no such host")?;
            let service = |(target, port): &(&str, u16)| Service {
                priority: 0,
                weight: 0,
                port: *port,
                target: (*target).to_owned(),
            };
            Ok(known.1.iter().map(service).collect())
        }

        fn address(&self, host: &str, port: u16) -> Result<SocketAddr, String> {
            let host = host.strip_suffix('.').unwrap_or(host);
            let found = self.hosts.iter().find(|(known, _)| *known == host);
            found.map(|(_, ip)| (*ip, port).into()).ok_or_else(|| format!("lookup {host}: no such host"))
        }
    }

    fn found(zone: &Zone, suffix: &str, advertised: &[&str]) -> Result<String, String> {
        let dns = Dns { domain: "d.test".into(), service_suffix: suffix.into() };
        let advertised: Vec<String> = advertised.iter().map(|url| (*url).to_owned()).collect();
        cluster_in(zone, &dns, "own", &advertised)
    }

    const HOSTS: [(&str, [u8; 4]); 4] = [
        ("a.test", [10, 0, 0, 1]),
        ("b.test", [10, 0, 0, 2]),
        ("c.test", [10, 0, 0, 3]),
        ("other.test", [10, 0, 0, 1]),
    ];

    fn zone(services: Vec<(&'static str, Vec<(&'static str, u16)>)>) -> Zone {
        Zone { services, hosts: HOSTS.to_vec() }
    }

    #[test]
    fn this_member_is_found_by_its_address_and_others_are_numbered() {
        let three = vec![("a.test.", 1), ("b.test.", 1), ("c.test.", 1)];
        let plain = zone(vec![("etcd-server", three.clone()), ("etcd-server-x", vec![("b.test.", 1)])]);
        let wanted = "0=http://a.test:1,own=http://b.test:1,1=http://c.test:1";
        assert_eq!(found(&plain, "", &["http://b.test:1"]).unwrap(), wanted);
        let wanted = "own=http://a.test:1,0=http://b.test:1,1=http://c.test:1";
        assert_eq!(found(&plain, "", &["http://other.test:1", "unix:///socket"]).unwrap(), wanted);
        assert_eq!(found(&plain, "x", &["http://b.test:1"]).unwrap(), "own=http://b.test:1");
        // The port is part of it.
        assert_eq!(found(&plain, "x", &["http://b.test:2"]).unwrap(), "0=http://b.test:1");
        // Each kind has numbers of its own, so that the two of a member are put together under one name.
        let both = zone(vec![("etcd-server-ssl", vec![("a.test.", 2)]), ("etcd-server", three)]);
        let wanted = "0=https://a.test:2,0=http://a.test:1,own=http://b.test:1,1=http://c.test:1";
        assert_eq!(found(&both, "", &["http://b.test:1"]).unwrap(), wanted);
    }

    #[test]
    fn records_of_no_use_are_left_out_and_a_failure_if_there_are_no_others() {
        let lost = zone(vec![("etcd-server", vec![("lost.test.", 1), ("a.test.", 1)])]);
        assert_eq!(found(&lost, "", &["http://a.test:1"]).unwrap(), "own=http://a.test:1");
        let lost = zone(vec![("etcd-server-ssl", vec![("a.test.", 1)]), ("etcd-server", vec![("lost.test.", 1)])]);
        assert_eq!(
            found(&lost, "", &["http://a.test:1"]).unwrap_err(),
            "error querying DNS SRV records for _etcd-server-ssl bootstrap at https://a.test:1 from DNS for etcd-server-ssl \
             has scheme mismatch with expected peer http://a.test:1\n\
             error querying DNS SRV records for _etcd-server lookup lost.test: no such host"
        );
        assert_eq!(
            found(&zone(Vec::new()), "", &["http://nobody.test:1"]).unwrap_err(),
            "error querying DNS SRV records for _etcd-server-ssl lookup nobody.test: no such host\n\
             error querying DNS SRV records for _etcd-server lookup nobody.test: no such host"
        );
    }
}
