//! What is looked at before anything is changed. Each finding says what it is about; one that stops the run says what to do.

use std::collections::BTreeSet;

use tokio::{net::TcpStream, time::timeout};
use urd::{config::gates::GATES, version};
use urd_client::etcdserverpb::AuthStatusRequest;

use super::{
    cluster::{Cluster, Compared, address_of},
    plan::{Plan, Replacement},
    show::bytes,
    steps::{self, Facts, LAG_ENTRIES_MAX, Member},
};

/// Of its quota, how much of a member's space may be taken.
const QUOTA_PERCENT_MAX: u64 = 90;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Fine,
    /// Worth knowing.
    Note,
    /// Nothing is changed.
    Refused,
}

#[derive(Clone, Debug)]
pub struct Finding {
    pub weight: Weight,
    pub text: String,
}

#[derive(Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    fn add(&mut self, weight: Weight, text: impl Into<String>) {
        self.0.push(Finding { weight, text: text.into() });
    }

    fn fine(&mut self, text: impl Into<String>) {
        self.add(Weight::Fine, text);
    }

    fn note(&mut self, text: impl Into<String>) {
        self.add(Weight::Note, text);
    }

    fn refuse(&mut self, text: impl Into<String>) {
        self.add(Weight::Refused, text);
    }

    /// What a check found wrong, or that it is fine.
    fn all(&mut self, wrong: Vec<String>, fine: impl FnOnce() -> String) {
        match wrong.is_empty() {
            true => self.fine(fine()),
            false => wrong.into_iter().for_each(|text| self.refuse(text)),
        }
    }

    pub fn refused(&self) -> usize {
        self.0.iter().filter(|finding| finding.weight == Weight::Refused).count()
    }
}

pub async fn check(plan: &Plan, facts: &Facts, cluster: &Cluster) -> Findings {
    let mut findings = Findings::default();
    of_plan(plan, facts, &mut findings);
    of_members(plan, facts, &mut findings);
    of_versions(facts, &mut findings);
    of_space(facts, &mut findings);
    of_quorum(plan, facts, &mut findings);
    of_urls(plan, facts, &mut findings).await;
    of_users(facts, cluster, &mut findings).await;
    of_features(facts, cluster, &mut findings).await;
    // Last: it costs the members something.
    if findings.refused() == 0 {
        of_data(plan, facts, cluster, &mut findings).await;
    }
    findings
}

/// Whether the plan is of this cluster, as far as members go.
fn of_plan(plan: &Plan, facts: &Facts, findings: &mut Findings) {
    let mut wrong = Vec::new();
    if let Err(why) = steps::next(plan, facts, &steps::Memory::at_start(plan, facts)) {
        wrong.push(why);
    }
    for (at, replacement) in plan.0.iter().enumerate() {
        let is_begun = facts.new_of(replacement).is_some();
        if facts.old_of(replacement).is_none() && !is_begun {
            wrong.push(format!("{} is no member: the members are {}", replacement.old, names(facts)));
            continue;
        }
        let begun_later = plan.0[at + 1..].iter().find(|later| facts.new_of(later).is_some());
        if let Some(later) = begun_later.filter(|_| !steps::is_done(replacement, facts)) {
            wrong.push(format!(
                "{later} is begun or done and {replacement}, which comes before it, is not done: put {later} first"
            ));
        }
        for member in &facts.members {
            let is_its_own = member.peer_urls == replacement.peer_urls;
            if let Some(url) = member.peer_urls.iter().find(|url| !is_its_own && replacement.peer_urls.contains(url)) {
                wrong.push(format!(
                    "{url}, which {} is to have, is of {}: the new member runs beside the old one for a while, and needs \
                     peer URLs of its own",
                    replacement.new,
                    member.shown()
                ));
            }
            if let Some(url) =
                member.client_urls.iter().find(|url| !is_its_own && replacement.client_urls.contains(url))
            {
                wrong.push(format!(
                    "{url}, which {} is to have, is of {}: the new member runs beside the old one for a while, and needs \
                     client URLs of its own",
                    replacement.new,
                    member.shown()
                ));
            }
            if member.name == replacement.new && !is_its_own {
                wrong.push(format!(
                    "{} is the name of a member already ({}): take another one",
                    replacement.new,
                    member.peer_urls.join(",")
                ));
            }
        }
    }
    wrong.dedup();
    let left: Vec<&Member> =
        facts.members.iter().filter(|member| plan.0.iter().all(|one| !is_of(one, member))).collect();
    findings.all(wrong, || {
        let (done, all) = (plan.0.iter().filter(|one| steps::is_done(one, facts)).count(), plan.0.len());
        format!("the plan fits the cluster: {all} replacements, {done} of them done")
    });
    if !left.is_empty() {
        let shown: Vec<String> = left.iter().map(|member| member.shown()).collect();
        findings.note(format!("the plan leaves as they are: {}", shown.join(", ")));
    }
}

fn is_of(replacement: &Replacement, member: &Member) -> bool {
    member.name == replacement.old || member.peer_urls == replacement.peer_urls
}

fn names(facts: &Facts) -> String {
    facts.members.iter().map(Member::shown).collect::<Vec<_>>().join(", ")
}

/// That all are there and well; the plan's own new members may be on their way.
fn of_members(plan: &Plan, facts: &Facts, findings: &mut Findings) {
    let is_ours = |member: &Member| plan.0.iter().any(|one| one.peer_urls == member.peer_urls);
    let mut wrong = Vec::new();
    for member in &facts.members {
        if member.is_learner && !is_ours(member) {
            wrong.push(format!(
                "{} is a learner that the plan does not know, and a cluster takes one at a time: promote it (etcdctl member \
                 promote {1:x}), or take it out (etcdctl member remove {1:x})",
                member.shown(),
                member.id
            ));
        } else if member.name.is_empty() && !is_ours(member) {
            wrong.push(format!(
                "a member has been added and has not started ({}): start it, or take it out (etcdctl member remove {:x})",
                member.peer_urls.join(","),
                member.id
            ));
        } else if let Err(cause) = &member.answer
            && !is_ours(member)
        {
            wrong.push(format!(
                "{} does not answer ({cause}): start it, or name an endpoint by which it is reached from here (--endpoints); \
                 if it is lost, replace it as docs/operations.md says",
                member.shown()
            ));
        }
    }
    let answering = facts.voters().filter(|voter| voter.answer.is_ok()).count();
    if wrong.is_empty() && facts.leader().is_none() {
        wrong.push(
            "the members do not agree on who leads: wait until they do (etcdctl endpoint status --cluster)".into(),
        );
    }
    let farthest = facts.voters().filter_map(|voter| Some(voter.answer.as_ref().ok()?.committed)).max().unwrap_or(0);
    for voter in facts.voters() {
        let Ok(answer) = &voter.answer else { continue };
        if answer.applied + LAG_ENTRIES_MAX < farthest {
            let behind = farthest - answer.applied;
            wrong.push(format!("{} is {behind} entries behind the others: wait until it has caught up", voter.shown()));
        }
    }
    let mut alarms: Vec<&String> =
        facts.voters().filter_map(|voter| voter.answer.as_ref().ok()).flat_map(|answer| &answer.alarms).collect();
    alarms.sort();
    alarms.dedup();
    for alarm in alarms {
        let cure = match alarm.contains("CORRUPT") {
            true => "replace the member that it names as a lost one, then etcdctl alarm disarm",
            false => "compact, defragment, then etcdctl alarm disarm",
        };
        wrong.push(format!("an alarm is raised ({alarm}): {cure}"));
    }
    findings.all(wrong, || {
        let leader = facts.leader().map(Member::shown).unwrap_or_default();
        format!("{answering} members with a vote, all of them up, no alarm; {leader} leads")
    });
}

fn of_versions(facts: &Facts, findings: &mut Findings) {
    let mut wrong = Vec::new();
    let mut shown = BTreeSet::new();
    for member in &facts.members {
        let Ok(answer) = &member.answer else { continue };
        shown.insert(answer.version.as_str());
        if !is_known(&answer.version) {
            wrong.push(format!(
                "{} runs {}, and members of urd are for clusters of 3.6 and 3.7: upgrade it to 3.6 first",
                member.shown(),
                answer.version
            ));
        }
    }
    if let Some(target) = facts.members.iter().find_map(|member| member.answer.as_ref().ok()?.downgrade.as_ref()) {
        wrong.push(format!(
            "a downgrade to {target} is under way: wait until it is over, or call it off (etcdctl downgrade cancel)"
        ));
    }
    findings.all(wrong, || format!("versions: {}", shown.into_iter().collect::<Vec<_>>().join(", ")));
}

pub fn is_known(text: &str) -> bool {
    matches!(version::parse(text), Some((3, 6 | 7)))
}

fn of_space(facts: &Facts, findings: &mut Findings) {
    let mut wrong = Vec::new();
    let mut largest = 0;
    for member in &facts.members {
        let Ok(answer) = &member.answer else { continue };
        largest = largest.max(answer.db_bytes);
        if answer.quota_bytes > 0 && answer.db_bytes > answer.quota_bytes / 100 * QUOTA_PERCENT_MAX {
            wrong.push(format!(
                "the database of {} has {} of a quota of {}: compact and defragment it, or give it a larger \
                 --quota-backend-bytes",
                member.shown(),
                bytes(answer.db_bytes),
                bytes(answer.quota_bytes)
            ));
        }
    }
    findings.all(wrong, || format!("databases: {} at most, all well below their quotas", bytes(largest)));
}

fn of_quorum(plan: &Plan, facts: &Facts, findings: &mut Findings) {
    let olds = plan.0.iter().filter(|one| facts.old_of(one).is_some() && facts.new_of(one).is_none()).count();
    let voters = facts.voters().count();
    let quorum = |voters: usize| voters / 2 + 1;
    if olds == 0 {
        return;
    }
    let (more, needed) = (voters + 1, quorum(voters + 1));
    let text = format!("quorum: while one is replaced {more} members vote, and {needed} of them are needed");
    match more - needed {
        0 => findings.note(format!("{text}: none of them may fail meanwhile, a matter of seconds")),
        spare => findings.fine(format!("{text}: {spare} may fail")),
    }
}

/// Whether somebody else sits where the new ones are to be.
async fn of_urls(plan: &Plan, facts: &Facts, findings: &mut Findings) {
    let is_tls = facts.members.iter().flat_map(|member| &member.peer_urls).any(|url| url.starts_with("https://"));
    for replacement in plan.0.iter().filter(|one| facts.new_of(one).is_none()) {
        for url in replacement.peer_urls.iter().chain(&replacement.client_urls) {
            let Ok((_, address)) = address_of(url) else { continue };
            let connected = timeout(std::time::Duration::from_secs(2), TcpStream::connect(address)).await;
            if matches!(connected, Ok(Ok(_))) {
                findings.refuse(format!(
                    "somebody listens at {url} already, where {} is to be: stop what is there, or take another port. A member \
                     is started after it was added, not before",
                    replacement.new
                ));
            }
        }
        if is_tls && replacement.peer_urls.iter().any(|url| url.starts_with("http://")) {
            findings.note(format!("{} is to have peer URLs without TLS, where other members have it", replacement.new));
        }
    }
}

async fn of_users(facts: &Facts, cluster: &Cluster, findings: &mut Findings) {
    match cluster.ask_any(facts, &AuthStatusRequest {}).await {
        Ok(status) if status.enabled && !cluster.has_credentials() => {
            findings.note("there are users: it goes on as the user of the certificate that is shown, if it is one");
        }
        Ok(status) if status.enabled => findings.fine(format!("there are users, at revision {}", status.auth_revision)),
        Ok(_) => findings.fine("there are no users"),
        Err(cause) => findings.refuse(with_cure(&format!("whether there are users cannot be told: {cause}"))),
    }
    if cluster.has_signed_tokens() {
        findings.note("tokens are signed: give the new members --auth-token with the same keys");
    }
}

/// What an old member has turned on and a new one should be told of.
async fn of_features(facts: &Facts, cluster: &Cluster, findings: &mut Findings) {
    let mut on = BTreeSet::new();
    let mut silent = Vec::new();
    for member in facts.voters() {
        let Ok(answer) = &member.answer else { continue };
        match cluster.page(&answer.url, "/metrics").await {
            Some(page) => on.extend(features(&page)),
            None => silent.push(member.shown()),
        }
    }
    for name in on {
        let Some(gate) = GATES.iter().find(|gate| gate.name == name) else {
            findings.note(format!(
                "the feature gate {name} is on, which urd does not know: a member of urd goes without it"
            ));
            continue;
        };
        match gate.no_effect {
            _ if gate.default || name.starts_with("All") => {}
            None => findings
                .note(format!("the feature gate {name} is on: give the new members --feature-gates={name}=true, too")),
            Some(why) => {
                findings.note(format!("the feature gate {name} is on; for a member of urd it has no effect: {why}"))
            }
        }
    }
    if !silent.is_empty() {
        findings.note(format!(
            "which feature gates are on cannot be told, for no metrics are at the client URLs of {}: compare the flags",
            silent.join(", ")
        ));
    }
}

/// Names in `etcd_server_feature_enabled{name="…",stage="…"} 1`.
fn features(page: &str) -> impl Iterator<Item = String> + '_ {
    page.lines()
        .filter_map(|line| line.strip_prefix("etcd_server_feature_enabled{"))
        .filter(|rest| rest.ends_with("} 1"))
        .filter_map(|rest| Some(rest.split_once("name=\"")?.1.split_once('"')?.0.to_owned()))
}

async fn of_data(plan: &Plan, facts: &Facts, cluster: &Cluster, findings: &mut Findings) {
    // One that is started again meanwhile cannot be asked; it is compared before anything depends on it.
    let absent = facts.voters().find(|voter| voter.answer.is_err()).map(|voter| voter.id);
    match cluster.compare(facts, absent).await {
        Ok(Compared::Same { revision, hash, members }) => {
            findings.fine(format!("the data are the same on {members} members: hash {hash} at revision {revision}"));
        }
        Ok(Compared::Differ { revision, hashes }) => findings.refuse(differ(plan, facts, revision, &hashes)),
        Err(cause) => findings.refuse(with_cure(&cause)),
    }
}

/// A refusal, and what may be done about it.
fn with_cure(cause: &str) -> String {
    if cause.contains("permission denied") {
        return format!("{cause}: the user needs the role root (--user)");
    }
    if cause.contains("user name is empty") || cause.contains("user name not found") {
        return format!("{cause}: there are users; name one that has the role root (--user)");
    }
    cause.to_owned()
}

/// Who holds what, and whose it probably is.
pub fn differ(plan: &Plan, facts: &Facts, revision: i64, hashes: &[(u64, u32)]) -> String {
    let name = |id: u64| facts.get(id).map_or_else(|| format!("{id:x}"), Member::shown);
    let all: Vec<String> = hashes.iter().map(|(id, hash)| format!("{} {hash}", name(*id))).collect();
    let count = |hash: u32| hashes.iter().filter(|(_, other)| *other == hash).count();
    let odd: Vec<u64> = hashes.iter().filter(|(_, hash)| count(*hash) * 2 <= hashes.len()).map(|(id, _)| *id).collect();
    let cure = match odd[..] {
        [id] if hashes.len() > 2 => {
            let is_new = facts.get(id).is_some_and(|member| plan.0.iter().any(|one| one.peer_urls == member.peer_urls));
            let then = if is_new { "remove its data directory, and run this again" } else { "and add it anew, empty" };
            format!("{} is alone with what it holds: take it out (etcdctl member remove {id:x}), {then}", name(id))
        }
        _ => "there is no majority that agrees: look at every member before anything is changed".to_owned(),
    };
    format!("the members do not hold the same at revision {revision}: {}. {cure}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_are_taken() {
        for (version, is_taken) in
            [("3.6.4", true), ("3.7.3", true), ("3.7.0-rc.1", true), ("3.5.21", false), ("x", false)]
        {
            assert_eq!(is_known(version), is_taken, "{version}");
        }
    }

    #[test]
    fn features_are_found_in_metrics() {
        let page = "# TYPE x\netcd_server_feature_enabled{name=\"LeaseCheckpoint\",stage=\"ALPHA\"} 1\n\
                    etcd_server_feature_enabled{name=\"CompactHashCheck\",stage=\"BETA\"} 0\n";
        assert_eq!(features(page).collect::<Vec<_>>(), ["LeaseCheckpoint"]);
    }

    #[test]
    fn the_one_that_differs_is_named() {
        let plan = Plan::read(None, &["m1=u1 http://u1:1".to_owned()]).unwrap();
        let member = |id, name: &str| Member {
            id,
            name: name.into(),
            peer_urls: vec![format!("http://{name}:1")],
            client_urls: Vec::new(),
            is_learner: false,
            answer: Err(String::new()),
        };
        let facts = Facts { members: vec![member(1, "m1"), member(2, "m2"), member(0x1f, "u1")] };
        let told = differ(&plan, &facts, 9, &[(1, 5), (2, 5), (0x1f, 6)]);
        assert!(told.contains("u1 (1f) is alone") && told.contains("member remove 1f), remove its data"), "{told}");
        let told = differ(&plan, &facts, 9, &[(1, 5), (0x1f, 6)]);
        assert!(told.contains("no majority"), "{told}");
    }
}
