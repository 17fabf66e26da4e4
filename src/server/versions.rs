//! Which version the cluster states: the least that a member runs, or the one that it goes back to. Who leads asks all the
//! others now and then, and has what follows logged. (etcd: server.go, monitorClusterVersions and monitorDowngrade;
//! etcdserver/version/monitor.go.)

use std::{rc::Rc, time::Duration};

use crate::{
    limits, log,
    observe::log::{hex, shown},
    peers::{
        Peers,
        remote::{self, Versions},
    },
    raft::{bootstrap, driver::Driver},
    runtime,
    store::{membership::Member, state::State},
    version,
};

/// Runs on the raft core's executor for as long as the member runs.
pub(super) async fn watch_over(driver: Rc<Driver>, peers: Rc<Peers>) {
    let mut told_ready = false;
    loop {
        driver.lead_begins(Duration::from_millis(limits::VERSION_LOOK_MS)).await;
        told_ready = tell_ready(driver.core().state(), told_ready);
        if !driver.leads() {
            continue;
        }
        let versions = versions_of_all(&driver, &peers).await;
        let least = least_version(&versions);
        let decided = decide(driver.core().state(), least);
        if let Some((major, minor)) = decided {
            state_version(&driver, &format!("{major}.{minor}.0"));
        }
    }
}

/// Calls a downgrade off once it is done: every member runs what the cluster went back to.
pub(super) async fn watch_over_downgrades(driver: Rc<Driver>, peers: Rc<Peers>) {
    let pause = Duration::from_millis(driver.member().config.downgrade_check_ms);
    if pause.is_zero() {
        return;
    }
    loop {
        runtime::sleep(pause).await;
        let downgrade = driver.core().state().downgrade.clone();
        let (Some(downgrade), true) = (downgrade, driver.leads()) else { continue };
        let versions = versions_of_all(&driver, &peers).await;
        if all_run(&versions, &downgrade.target) {
            log!(Info, "the cluster has been downgraded", "cluster-version" = shown(&downgrade.target));
            driver.propose_own(bootstrap::downgrade_request(driver.member().next_id(), None));
        }
    }
}

/// What each member runs, this one among them; None where it cannot be asked.
async fn versions_of_all(driver: &Driver, peers: &Peers) -> Vec<(u64, Option<Versions>)> {
    let (own, others) = {
        let core = driver.core();
        let state = core.state();
        let cluster = state.cluster_version.as_deref().unwrap_or("not_decided").to_owned();
        let others: Vec<Member> =
            state.membership.members().filter(|member| member.id != driver.member().id).cloned().collect();
        (Versions { server: version::stated(&driver.member().config.max_cluster_version), cluster }, others)
    };
    let patience = Duration::from_millis(driver.member().config.request_timeout_ms());
    let mut versions = vec![(driver.member().id, Some(own))];
    for member in &others {
        versions.push((member.id, remote::versions(peers.client(), member, patience).await));
    }
    versions
}

/// None where one is not known.
fn least_version(versions: &[(u64, Option<Versions>)]) -> Option<(i64, i64)> {
    let own = version::parse(version::CLUSTER);
    let mut least = None;
    for (id, told) in versions {
        let server = told.as_ref()?.server.as_str();
        let Some(version) = version::parse(server) else {
            log!(
                Warn,
                "failed to parse server version of remote member",
                "remote-member-id" = hex(*id),
                "remote-member-version" = server
            );
            return None;
        };
        if own < Some(version) {
            log!(
                Warn,
                "leader found higher-versioned member",
                "local-member-version" = version::ETCD,
                "remote-member-id" = hex(*id),
                "remote-member-version" = server
            );
        }
        least = Some(least.map_or(version, |least: (i64, i64)| least.min(version)));
    }
    least
}

fn all_run(versions: &[(u64, Option<Versions>)], target: &str) -> bool {
    versions.iter().all(|(id, told)| {
        let Some(told) = told else { return false };
        let matches = version::parse(&told.server).is_some_and(|runs| Some(runs) == version::parse(target));
        if !matches {
            log!(
                Warn,
                "remotes server has mismatching etcd version",
                "remote-member-id" = hex(*id),
                "current-server-version" = told.server.as_str(),
                "target-version" = target
            );
        }
        matches
    })
}

/// The version that the cluster is to state from now on, if it is another than it states. (etcd: decideClusterVersion.)
fn decide(state: &State, least: Option<(i64, i64)>) -> Option<(i64, i64)> {
    let Some(stated) = state.cluster_version.as_deref().and_then(version::parse) else {
        return least.or_else(|| version::parse(version::MIN_CLUSTER));
    };
    let least = least?;
    let is_release_before = |from: (i64, i64), to: (i64, i64)| to == (from.0, from.1 - 1);
    if let Some(downgrade) = &state.downgrade {
        let target = version::parse(&downgrade.target)?;
        if target == stated {
            return None;
        }
        let from = match (is_release_before(stated, target), is_release_before(least, target)) {
            (true, true) => return Some(target),
            (false, _) => ("Cannot downgrade from cluster-version to downgrade-target", stated),
            (true, false) => ("Cannot downgrade from minimal-server-version to downgrade-target", least),
        };
        let (message, (major, minor)) = from;
        log!(Error, message, "downgrade-target" = shown(&downgrade.target), "version" = format!("{major}.{minor}.0"));
        return None;
    }
    (stated.0 == least.0 && stated < least).then_some(least)
}

fn state_version(driver: &Driver, version: &str) {
    let stated = driver.core().state().cluster_version.clone();
    let short = |version: &str| version.strip_suffix(".0").unwrap_or(version).to_owned();
    match stated {
        None => log!(Info, "setting up initial cluster version using v3 API", "cluster-version" = short(version)),
        Some(from) => {
            log!(Info, "updating cluster version using v3 API", "from" = short(&from), "to" = short(version));
        }
    }
    driver.propose_own(bootstrap::cluster_version_request(driver.member().next_id(), version));
}

/// Says, once, that the release before can be started on this data. `told`: it has been said.
fn tell_ready(state: &State, told: bool) -> bool {
    let ready = state.downgrade.as_ref().filter(|it| state.cluster_version.as_deref() == Some(&*it.target));
    if let (Some(downgrade), false) = (ready, told) {
        log!(
            Info,
            "The server is ready to downgrade",
            "target-version" = shown(&downgrade.target),
            "server-version" = version::ETCD
        );
    }
    ready.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::state::Downgrade;

    fn stating(cluster: Option<&str>, target: Option<&str>) -> State {
        let mut state = State::new(1);
        state.cluster_version = cluster.map(Into::into);
        state.downgrade = target.map(|target| Downgrade { target: target.into() }.into());
        state
    }

    fn running(servers: &[Option<&str>]) -> Vec<(u64, Option<Versions>)> {
        let told = |server: &str| Versions { server: server.into(), cluster: String::new() };
        (1..).zip(servers).map(|(id, server)| (id, server.map(told))).collect()
    }

    #[test]
    fn the_least_version_counts_and_only_if_all_are_known() {
        assert_eq!(least_version(&running(&[Some("3.7.3"), Some("3.6.11"), Some("3.7.0")])), Some((3, 6)));
        assert_eq!(least_version(&running(&[Some("3.7.3"), None])), None);
        assert_eq!(least_version(&running(&[Some("3.7.3"), Some("three")])), None);
    }

    /// As etcd's monitor decides.
    #[test]
    fn a_cluster_goes_up_by_itself_and_down_when_it_is_told_to() {
        assert_eq!(decide(&stating(None, None), Some((3, 7))), Some((3, 7)));
        assert_eq!(decide(&stating(None, None), None), Some((3, 0)));
        assert_eq!(decide(&stating(Some("3.0.0"), None), None), None);
        assert_eq!(decide(&stating(Some("3.0.0"), None), Some((3, 7))), Some((3, 7)));
        assert_eq!(decide(&stating(Some("3.7.0"), None), Some((3, 7))), None);
        assert_eq!(decide(&stating(Some("3.7.0"), None), Some((3, 6))), None);
        assert_eq!(decide(&stating(Some("3.7.0"), Some("3.6.0")), Some((3, 7))), Some((3, 6)));
        assert_eq!(decide(&stating(Some("3.6.0"), Some("3.6.0")), Some((3, 7))), None);
        assert_eq!(decide(&stating(Some("3.7.0"), Some("3.6.0")), Some((3, 6))), None);
        assert_eq!(decide(&stating(Some("3.7.0"), Some("3.6.0")), None), None);
    }

    #[test]
    fn a_downgrade_is_done_when_all_run_its_target() {
        assert!(all_run(&running(&[Some("3.6.1"), Some("3.6.11")]), "3.6.0"));
        assert!(!all_run(&running(&[Some("3.7.3"), Some("3.6.11")]), "3.6.0"));
        assert!(!all_run(&running(&[Some("3.6.1"), None]), "3.6.0"));
    }
}
