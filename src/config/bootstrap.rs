//! What must fit together before a cluster is founded, and no longer matters once there is data: etcd ignores the
//! initial-* flags on a restart, and so manifests keep whatever they began with. (etcd: config.VerifyBootstrap.)

use std::{
    collections::BTreeSet,
    net::{SocketAddr, ToSocketAddrs as _},
};

use super::{
    Config, ConfigError,
    discovery::Discovery,
    url::{self, Url},
};

impl Config {
    /// Whether a cluster can be founded by this configuration; to be asked only where the data directory is empty. May
    /// ask DNS.
    ///
    /// # Errors
    /// What etcd would refuse.
    pub fn verify_bootstrap(&self) -> Result<(), ConfigError> {
        self.check_advertised(self.own_urls()?)?;
        self.check_each_url_once("initial cluster")
    }

    /// Whether the members that a discovery service has told of can found a cluster.
    ///
    /// # Errors
    /// What etcd would refuse.
    pub fn verify_discovered(&self) -> Result<(), ConfigError> {
        self.check_each_url_once("discovery cluster")
    }

    /// Whether a cluster can be joined by it. What others are to call this member by they have been told before.
    /// (etcd: config.VerifyJoinExisting.)
    ///
    /// # Errors
    /// What etcd would refuse.
    pub fn verify_join(&self) -> Result<(), ConfigError> {
        self.own_urls()?;
        self.check_each_url_once("initial cluster")?;
        match self.discovery {
            Some(Discovery::Service(_)) => {
                Err(ConfigError::invalid("discovery URL should not be set when joining existing initial cluster")
                    .hint("name the cluster's members with --initial-cluster in place of --discovery-endpoints"))
            }
            _ => Ok(()),
        }
    }

    fn own_urls(&self) -> Result<&[String], ConfigError> {
        let Some((_, urls)) = self.initial_cluster.iter().find(|(name, _)| *name == self.name) else {
            return Err(ConfigError::invalid(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            ))
            .hint("--initial-cluster must hold --name=<one of --initial-advertise-peer-urls>"));
        };
        Ok(urls)
    }

    fn check_each_url_once(&self, whose: &str) -> Result<(), ConfigError> {
        let mut seen = BTreeSet::new();
        if !self.initial_cluster.iter().flat_map(|(_, urls)| urls).all(|url| seen.insert(url)) {
            return Err(ConfigError::invalid(format!("{whose} {} has duplicate url", self.cluster_text())));
        }
        Ok(())
    }

    /// The member's URLs in both flags must be the same, as they stand or by what their hosts resolve to.
    /// (etcd: config.advertiseMatchesCluster.)
    fn check_advertised(&self, urls: &[String]) -> Result<(), ConfigError> {
        let mut in_cluster = urls.to_vec();
        let mut advertised = self.initial_advertise_peer_urls.clone();
        in_cluster.sort();
        advertised.sort();
        let Err(cause) = compare(&advertised, &in_cluster) else { return Ok(()) };
        let pairs =
            |urls: &[String]| urls.iter().map(|url| format!("{}={url}", self.name)).collect::<Vec<_>>().join(",");
        let beyond = |these: &[String], others: &[String]| {
            these.iter().filter(|url| !others.contains(url)).cloned().collect::<Vec<String>>()
        };
        let message = match (&beyond(&in_cluster, &advertised)[..], &beyond(&advertised, &in_cluster)[..]) {
            ([], []) => format!(
                "failed to resolve {} to match --initial-cluster={} ({cause})",
                advertised.join(","),
                pairs(&advertised)
            ),
            ([], missing) => format!(
                "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
                missing.join(","),
                pairs(&advertised)
            ),
            (missing, _) => format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({cause})",
                pairs(missing),
                advertised.join(",")
            ),
        };
        Err(ConfigError::invalid(message).hint("forgot to set --initial-cluster or --initial-advertise-peer-urls?"))
    }

    /// The founding members as `--initial-cluster` would have them, in order.
    pub fn cluster_text(&self) -> String {
        let mut pairs: Vec<String> = self
            .initial_cluster
            .iter()
            .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
            .collect();
        pairs.sort();
        pairs.join(",")
    }
}

/// The members of a list of `name=URL`, by name, with the URLs of each in order. (etcd: types.NewURLsMap.)
///
/// # Errors
/// A URL that is none.
pub fn parse_cluster(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let mut members: Vec<(String, Vec<Url>)> = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (member, url) = part.split_once('=').unwrap_or((part, ""));
        let url = url::parse(url)?;
        match members.iter_mut().find(|(known, _)| known == member) {
            Some((_, urls)) => urls.push(url),
            None => members.push((member.to_owned(), vec![url])),
        }
    }
    members.sort();
    let sorted = |(member, urls): (String, Vec<Url>)| {
        let mut urls: Vec<String> = urls.iter().map(Url::to_string).collect();
        urls.sort();
        (member, urls)
    };
    Ok(members.into_iter().map(sorted).collect())
}

/// Whether two lists of URLs lead to the same places. May ask DNS. (etcd: netutil.URLStringsEqual.)
///
/// # Errors
/// What differs.
pub fn are_same_places(one: &[String], other: &[String]) -> Result<(), String> {
    let (mut one, mut other) = (one.to_vec(), other.to_vec());
    one.sort();
    other.sort();
    compare(&one, &other)
}

/// Whether two sorted lists lead to the same places; the error tells a difference.
fn compare(advertised: &[String], in_cluster: &[String]) -> Result<(), String> {
    if advertised.len() != in_cluster.len() {
        let quoted = |urls: &[String]| urls.iter().map(|url| format!("{url:?}")).collect::<Vec<_>>().join(" ");
        return Err(format!("len([{}]) != len([{}])", quoted(advertised), quoted(in_cluster)));
    }
    if advertised == in_cluster {
        return Ok(());
    }
    match resolved(advertised)?.iter().zip(&resolved(in_cluster)?).find(|(one, other)| one != other) {
        None => Ok(()),
        Some((one, other)) => Err(format!("resolved urls: {one:?} != {other:?}")),
    }
}

/// The URLs with addresses for names, sorted. `localhost` stays itself, as in etcd.
fn resolved(urls: &[String]) -> Result<Vec<String>, String> {
    let resolve = |text: &String| {
        let url = url::parse(text)?;
        let (host, port) = url.host_and_port();
        if host == "localhost" || url.is_socket_file() {
            return Ok(text.clone());
        }
        let unknown = |why: &str| format!("failed to resolve {text}: {why}");
        let port = port.parse::<u16>().map_err(|_| unknown("it has no port"))?;
        let mut found = (host, port).to_socket_addrs().map_err(|cause| unknown(&cause.to_string()))?;
        let address: SocketAddr = found.next().ok_or_else(|| unknown("it has no address"))?;
        Ok(format!("{}://{address}", url.scheme))
    };
    let mut resolved = urls.iter().map(resolve).collect::<Result<Vec<String>, String>>()?;
    resolved.sort();
    Ok(resolved)
}
