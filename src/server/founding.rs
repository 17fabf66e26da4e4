//! How a member without data comes to a cluster: it founds one with others, or joins one that is there. It asks whom it can
//! reach before it believes its flags. Blocking; runs before the executors start. (etcd: etcdserver/bootstrap.go.)

use std::{borrow::Cow, time::Duration};

use super::doors;
use crate::{
    config::{
        Config,
        bootstrap::{are_same_places, parse_cluster},
        discovery::{Discovery, Service},
    },
    discovery::{registry, srv},
    limits, log,
    observe::log::{hex, shown},
    peers::{
        client::Client,
        remote::{self, Cluster, Versions},
    },
    raft::start::Founding,
    runtime::executors,
    store::membership::Member,
    version,
};

/// What a member begins with where it has no data.
pub(super) struct Found {
    pub founding: Founding,
    /// What the certificates of others are to be of, if not of their hosts.
    pub peer_name: Option<String>,
}

/// # Errors
/// What keeps it from founding or joining a cluster, in etcd's words.
pub(super) fn found(config: &Config) -> Result<Found, String> {
    let config = &*discovered(config)?;
    let founding = match config.initial_cluster_state_new {
        true => {
            config.verify_bootstrap().map_err(|cause| cause.to_string())?;
            begin(config)
        }
        false => {
            config.verify_join().map_err(|cause| cause.to_string())?;
            join(config)
        }
    };
    Ok(Found { founding: founding?, peer_name: config.tls.peer_name.clone() })
}

/// The configuration as if `--initial-cluster` named the members that DNS tells of; or this one alone, where a discovery
/// service is to tell of the others. (etcd: embed.Config.PeerURLsMapAndToken.)
fn discovered(config: &Config) -> Result<Cow<'_, Config>, String> {
    let mut told = config.clone();
    match &config.discovery {
        None => return Ok(Cow::Borrowed(config)),
        Some(Discovery::Service(service)) => {
            let mut urls = config.initial_advertise_peer_urls.clone();
            urls.sort();
            told.initial_cluster = vec![(config.name.clone(), urls)];
            told.initial_cluster_token.clone_from(&service.token);
        }
        Some(Discovery::Dns(dns)) => {
            let failed = |cause: String| format!("error setting up initial cluster: {cause}");
            let text = srv::cluster(dns, &config.name, &config.initial_advertise_peer_urls).map_err(failed)?;
            if text.contains("https://") && config.tls.peer.trusted_ca.as_os_str().is_empty() {
                told.tls.peer_name = Some(dns.domain.trim_end_matches('.').to_owned());
            }
            told.initial_cluster = parse_cluster(&text).unwrap_or_default();
            if !told.initial_cluster.iter().any(|(name, _)| *name == config.name) {
                return Err(failed(format!("cannot find local etcd member {:?} in SRV records", config.name)));
            }
        }
    }
    Ok(Cow::Owned(told))
}

/// Of the members that the flags name, one that others know already has lost its data, and with it its word: it must not
/// begin anew under its name.
fn begin(config: &Config) -> Result<Founding, String> {
    let founding = Founding::of_flags(config);
    let urls = urls_of_others(&founding.members, &config.name);
    let patience = Duration::from_millis(limits::BOOTSTRAP_PATIENCE_MS);
    let told = ask(config, async move |client| remote::cluster(client, &urls, patience, false).await)?;
    let is_known = |cluster: Cluster| {
        let mut members = cluster.members.into_iter();
        members.any(|member| member.id == founding.member_id && !member.client_urls.is_empty())
    };
    if told.is_ok_and(is_known) {
        return Err(format!("member {:x} has already been bootstrapped", founding.member_id));
    }
    match &config.discovery {
        Some(Discovery::Service(service)) => begin_with_registered(config, service, founding.member_id),
        _ => Ok(founding),
    }
}

/// Those who have registered at the discovery service are the founders. This member keeps the id under which it has
/// registered.
fn begin_with_registered(config: &Config, service: &Service, member_id: u64) -> Result<Founding, String> {
    log!(Info, "Bootstrapping cluster using v3 discovery.");
    let (asked, own) = (service.clone(), config.cluster_text());
    let joined = executors::run_one(move || async move { registry::join(asked, member_id, &own).await })
        .map_err(|cause| cause.to_string())?;
    let text = joined.map_err(|cause| {
        let cause = format!("failed to join discovery cluster ({cause})");
        log!(
            Warn,
            "failed to bootstrap; discovery token was already used",
            "discovery-token" = service.token,
            "discovery-endpoints" = service.endpoints,
            "error" = cause
        );
        log!(Warn, "do not reuse discovery token; generate a new one to bootstrap a cluster");
        cause
    })?;
    let config = Config { initial_cluster: parse_cluster(&text)?, ..config.clone() };
    config.verify_discovered().map_err(|cause| cause.to_string())?;
    let founding = Founding::of_flags(&config);
    match founding.members.iter().any(|member| member.id == member_id) {
        true => Ok(founding),
        // Members of one name would be taken for one member with all their URLs, by each of them.
        false => Err(format!("another member of the discovery cluster {text} has the name {:?}, too", config.name)),
    }
}

/// The members of the flags must be those that the cluster has: it has been told of this one before. They have the ids that
/// the cluster gave them.
fn join(config: &Config) -> Result<Founding, String> {
    let mut founding = Founding::of_flags(config);
    let urls = urls_of_others(&founding.members, &config.name);
    let patience = Duration::from_millis(limits::JOIN_PATIENCE_MS);
    let cluster = ask(config, async move |client| remote::cluster(client, &urls, patience, true).await)?
        .map_err(|cause| format!("cannot fetch cluster info from peer urls: {cause}"))?;
    assign_ids(&mut founding.members, &cluster)
        .map_err(|cause| format!("error validating peerURLs {}: {cause}", in_go_words(&cluster)))?;
    founding.cluster_id = cluster.id;
    founding.joins = true;
    let own = founding.members.iter().find(|member| member.name == config.name);
    founding.member_id = own.expect("the flags name this member").id;
    let others: Vec<Member> =
        founding.members.iter().filter(|member| member.id != founding.member_id).cloned().collect();
    let patience = Duration::from_millis(config.request_timeout_ms());
    let is_compatible = ask(config, async move |client| {
        let mut versions = Vec::new();
        for member in &others {
            versions.push((member.id, remote::versions(client, member, patience).await));
        }
        let mut is_downgrading = false;
        for member in &others {
            match remote::is_downgrading(client, member, patience).await {
                Ok(told) => {
                    is_downgrading = told;
                    break;
                }
                Err(cause) => {
                    let message = "failed to get downgrade enabled status";
                    log!(Warn, message, "remote-member-id" = hex(member.id), "error" = shown(&cause));
                }
            }
        }
        is_compatible(&versions, is_downgrading)
    })?;
    if !is_compatible {
        return Err("incompatible with current running cluster".into());
    }
    if cluster.members.iter().filter(|member| member.is_learner).count() > config.max_learners {
        return Err("membership: too many learner members in cluster".into());
    }
    Ok(founding)
}

/// Lets a client ask, on an executor of its own.
pub(super) fn ask<T: Send + 'static>(
    config: &Config,
    question: impl AsyncFnOnce(&Client) -> T + Send + 'static,
) -> Result<T, String> {
    let (tls, files) = (config.tls.clone(), doors::peer_files(config)?);
    let patience = Duration::from_millis(config.peer_dial_timeout_ms());
    executors::run_one(move || async move {
        let client = Client::new(tls, files, patience);
        question(&client).await
    })
    .map_err(|cause| cause.to_string())
}

fn urls_of_others(members: &[Member], own_name: &str) -> Vec<String> {
    let others = members.iter().filter(|member| member.name != own_name);
    let mut urls: Vec<String> = others.flat_map(|member| member.peer_urls.iter().cloned()).collect();
    urls.sort();
    urls
}

/// (etcd: membership.ValidateClusterAndAssignIDs.)
fn assign_ids(local: &mut [Member], cluster: &Cluster) -> Result<(), String> {
    if local.len() != cluster.members.len() {
        return Err("member count is unequal".into());
    }
    local.sort_by_key(|member| member.id);
    for known in &cluster.members {
        let mut failed = String::new();
        let same = local.iter_mut().find(|member| match are_same_places(&known.peer_urls, &member.peer_urls) {
            Ok(()) => true,
            Err(cause) => {
                failed = cause;
                false
            }
        });
        match same {
            Some(member) => {
                member.id = known.id;
                member.is_learner = known.is_learner;
            }
            None => {
                return Err(format!(
                    "PeerURLs: no match found for existing member ({:x}, [{}]), last resolver error ({failed})",
                    known.id,
                    known.peer_urls.join(" ")
                ));
            }
        }
    }
    Ok(())
}

/// At least one other member states a cluster version that this release can serve, and none that can be asked another.
/// While a cluster goes back a release, who joins it must be of the release that it goes back to.
/// (etcd: isCompatibleWithCluster.)
fn is_compatible(others: &[(u64, Option<Versions>)], is_downgrading: bool) -> bool {
    let parsed = |text: &str| version::parse(text).expect("a version of ours is one");
    let (mut least, (major, minor)) = (parsed(version::MIN_CLUSTER), parsed(version::CLUSTER));
    let mut most = (major, minor);
    if is_downgrading {
        most = (major, minor + 1);
        least = most;
    }
    let mut is_compatible = false;
    for (id, versions) in others {
        let Some(told) = versions.as_ref().map(|versions| versions.cluster.as_str()) else { continue };
        let Some(stated) = version::parse(told) else {
            log!(
                Warn,
                "failed to parse cluster version of remote member",
                "remote-member-id" = hex(*id),
                "remote-member-cluster-version" = told
            );
            continue;
        };
        if stated < least || stated > most {
            let message = match stated < least {
                true => "cluster version of remote member is not compatible; too low",
                false => "cluster version of remote member is not compatible; too high",
            };
            log!(Warn, message, "remote-member-id" = hex(*id), "remote-member-cluster-version" = told);
            return false;
        }
        is_compatible = true;
    }
    is_compatible
}

/// (etcd: membership.RaftCluster.String.)
fn in_go_words(cluster: &Cluster) -> String {
    let member = |member: &Member| {
        format!(
            "&{{ID:{:x} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} ClientURLs:[{}]}}}}",
            member.id,
            member.peer_urls.join(" "),
            member.is_learner,
            member.name,
            member.client_urls.join(" ")
        )
    };
    let members: Vec<String> = cluster.members.iter().map(member).collect();
    format!("{{ClusterID:{:x} Members:[{}] RemovedMemberIDs:[]}}", cluster.id, members.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, urls: &[&str]) -> Member {
        Member { id, peer_urls: urls.iter().map(|url| url.to_string()).collect(), ..Member::default() }
    }

    fn stating(cluster: &str) -> (u64, Option<Versions>) {
        (7, Some(Versions { server: "3.7.3".into(), cluster: cluster.into() }))
    }

    #[test]
    fn who_joins_takes_the_ids_that_the_cluster_gave() {
        let (one, two) = ("http://127.0.0.1:1", "http://127.0.0.1:2");
        let cluster = Cluster { id: 9, members: vec![member(3, &[two]), member(5, &[one])] };
        let mut local = vec![member(100, &[one]), member(200, &[two])];
        assign_ids(&mut local, &cluster).unwrap();
        assert_eq!(local, [member(5, &[one]), member(3, &[two])]);

        let mut fewer = vec![member(100, &[one])];
        assert_eq!(assign_ids(&mut fewer, &cluster).unwrap_err(), "member count is unequal");
        let mut others = vec![member(100, &[one]), member(200, &["http://127.0.0.1:3"])];
        assert_eq!(
            assign_ids(&mut others, &cluster).unwrap_err(),
            "PeerURLs: no match found for existing member (3, [http://127.0.0.1:2]), last resolver error (resolved urls: \
             \"http://127.0.0.1:2\" != \"http://127.0.0.1:3\")"
        );
    }

    #[test]
    fn one_member_must_state_a_version_and_none_another() {
        let unknown = (8, None);
        assert!(is_compatible(&[stating("3.6.0"), unknown.clone()], false));
        assert!(!is_compatible(&[unknown.clone(), stating("not_decided")], false));
        assert!(!is_compatible(&[stating("3.6.0"), stating("3.8.0")], false));
        assert!(!is_compatible(&[stating("2.3.0")], false));
        assert!(!is_compatible(&[stating("3.7.0")], true));
        assert!(is_compatible(&[stating("3.8.0")], true));
    }

    #[test]
    fn a_cluster_is_told_in_gos_words() {
        let known =
            Member { name: "n".into(), client_urls: vec!["http://c:1".into()], ..member(0x3f, &["http://a:1"]) };
        assert_eq!(
            in_go_words(&Cluster { id: 0x1f, members: vec![known] }),
            "{ClusterID:1f Members:[&{ID:3f RaftAttributes:{PeerURLs:[http://a:1] IsLearner:false} \
             Attributes:{Name:n ClientURLs:[http://c:1]}}] RemovedMemberIDs:[]}"
        );
    }
}
