//! What must fit together before a cluster is founded, and no longer matters once there is data: etcd ignores the
//! initial-* flags on a restart, and so manifests keep whatever they began with. (etcd: config.VerifyBootstrap.)

use std::{
    collections::BTreeSet,
    net::{SocketAddr, ToSocketAddrs as _},
};

use super::{Config, ConfigError, url};

impl Config {
    /// Whether a cluster can be founded by this configuration; to be asked only where the data directory is empty. May
    /// ask DNS.
    ///
    /// # Errors
    /// What etcd would refuse, and what this version cannot do: joining, and founding with others.
    pub fn verify_bootstrap(&self) -> Result<(), ConfigError> {
        let Some((_, urls)) = self.initial_cluster.iter().find(|(name, _)| *name == self.name) else {
            return Err(ConfigError::invalid(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            ))
            .hint("--initial-cluster must hold --name=<one of --initial-advertise-peer-urls>"));
        };
        let mut seen = BTreeSet::new();
        if !self.initial_cluster.iter().flat_map(|(_, urls)| urls).all(|url| seen.insert(url)) {
            return Err(ConfigError::invalid(format!("initial cluster {} has duplicate url", self.cluster_text())));
        }
        if !self.initial_cluster_state_new {
            return Err(ConfigError::invalid("--initial-cluster-state=existing: this version cannot join a cluster")
                .hint("joining comes with clusters of several members; to found a cluster of one use --initial-cluster-state=new"));
        }
        if self.initial_cluster.len() > 1 {
            return Err(ConfigError::invalid(format!(
                "--initial-cluster has {} members: this version founds clusters of one member only",
                self.initial_cluster.len()
            ))
            .hint("clusters of several members come in a later version; name this member alone"));
        }
        self.check_advertised(urls)
    }

    /// The member's URLs in both flags must be the same, as they stand or by what their hosts resolve to.
    fn check_advertised(&self, urls: &[String]) -> Result<(), ConfigError> {
        let mut in_cluster = urls.to_vec();
        let mut advertised = self.initial_advertise_peer_urls.clone();
        in_cluster.sort();
        advertised.sort();
        if in_cluster == advertised || resolved(&in_cluster) == resolved(&advertised) {
            return Ok(());
        }
        let pairs =
            |urls: &[String]| urls.iter().map(|url| format!("{}={url}", self.name)).collect::<Vec<_>>().join(",");
        let missing: Vec<String> = in_cluster.iter().filter(|url| !advertised.contains(url)).cloned().collect();
        let message = match missing.is_empty() {
            false => format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
                pairs(&missing),
                advertised.join(",")
            ),
            true => {
                let missing: Vec<String> = advertised.iter().filter(|url| !in_cluster.contains(url)).cloned().collect();
                format!(
                    "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
                    missing.join(","),
                    self.cluster_text()
                )
            }
        };
        Err(ConfigError::invalid(message).hint("forgot to set --initial-cluster or --initial-advertise-peer-urls?"))
    }

    fn cluster_text(&self) -> String {
        let mut pairs: Vec<String> = self
            .initial_cluster
            .iter()
            .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
            .collect();
        pairs.sort();
        pairs.join(",")
    }
}

/// The addresses behind the URLs; None where one cannot be found. `localhost` stays itself, as in etcd.
fn resolved(urls: &[String]) -> Option<BTreeSet<(String, Option<SocketAddr>)>> {
    let resolve = |text: &String| {
        let url = url::parse(text).ok()?;
        let (host, port) = url.host_and_port();
        if host == "localhost" {
            return Some((text.clone(), None));
        }
        let address = (host, port.parse::<u16>().ok()?).to_socket_addrs().ok()?.next()?;
        Some((url.scheme, Some(address)))
    };
    urls.iter().map(resolve).collect()
}
