//! Whether the data are what was written, and the same on all members.
//!
//! Every few seconds the leader compares what spans of entries did to each member's state, as each keeps it (`store/hash/spans.rs`).
//! Every now and then (`--compact-hash-check-time`) the leader asks the others for the hash that each took when a compaction
//! began, and compares: those who differ from most are told to be corrupt by the alarm CORRUPT, and nothing more is written
//! until the operator has lifted it. With `--corrupt-check-time` it also reads and hashes all its data, twice, and compares
//! that with the others' hashes of the same revision; and a member with the gate InitialCorruptCheck compares itself with the
//! others before it serves. (etcd: etcdserver/corrupt.go, which does not know spans, and compares compactions only with a gate.)

use std::{collections::BTreeMap, io, rc::Rc, sync::Arc, time::Duration};

use crate::{
    api::service::Services,
    error::Status,
    limits, log,
    observe::log::{hex, shown},
    peers::remote::{self, Hashed},
    proto::etcdserverpb::AlarmType,
    runtime,
    shard::{Shard, view::View},
    store::hash::{self, KvHash},
};

/// Begins the checks, which last as long as the member runs.
pub(super) fn watch_over(services: &Rc<Services>) {
    let config = &services.shard.member.config;
    let each = |interval_ms: u64| Duration::from_millis(interval_ms);
    runtime::spawn(compare_spans(services.clone()));
    runtime::spawn(compare_compactions(services.clone(), each(config.compact_hash_check_ms)));
    if config.corrupt_check_ms > 0 {
        let (id, interval) = (services.shard.member.id, each(config.corrupt_check_ms));
        log!(Info, "enabled corruption checking", "local-member-id" = hex(id), "interval" = interval);
        runtime::spawn(check_all(services.clone(), interval));
    }
}

/// Whether this member is to check now.
fn checks(shard: &Shard) -> bool {
    shard.member.is_leader() && !shard.view().state.alarms.is_raised(AlarmType::Corrupt)
}

/// What the other members tell of a revision, each by its id; None of who tells nothing.
async fn of_others(services: &Services, revision: i64) -> Vec<(u64, Result<Hashed, String>)> {
    let member = &services.shard.member;
    let patience = Duration::from_millis(member.config.request_timeout_ms());
    let view = services.shard.view();
    let mut told = Vec::new();
    for other in view.state.membership.members().filter(|other| other.id != member.id) {
        let hashed = remote::hash_kv(&services.client, other, member.cluster_id, revision, patience).await;
        told.push((other.id, hashed));
    }
    told
}

async fn compare_compactions(services: Rc<Services>, interval: Duration) {
    let shard = services.shard.clone();
    let mut checked = 0;
    loop {
        runtime::sleep(interval).await;
        let is_alone = shard.view().state.membership.members().nth(1).is_none();
        if is_alone || !checks(&shard) {
            continue;
        }
        for own in shard.member.compaction_hashes.after(checked) {
            let others = of_others(&services, own.revision).await;
            match judge_compaction(shard.member.id, own, &others) {
                Verdict::Same => {
                    log!(
                        Info,
                        "successfully checked hash on whole cluster",
                        "number-of-peers-checked" = others.len() as u64,
                        "revision" = own.revision,
                        "compactRevision" = own.compacted
                    );
                    checked = own.revision;
                    break;
                }
                // An older one may tell more.
                Verdict::Unknown => {}
                Verdict::Differ(corrupt) => {
                    log!(
                        Error,
                        "Detected compaction hash mismatch",
                        "leader-id" = hex(shard.member.id),
                        "leader-revision" = own.revision,
                        "leader-compact-revision" = own.compacted,
                        "leader-hash" = u64::from(own.hash),
                        "corrupt-members" = shown(format!("{corrupt:x?}"))
                    );
                    for id in corrupt {
                        services.raise_of(id, AlarmType::Corrupt).await;
                    }
                    break;
                }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// Not all could be asked, and those who could are alike.
    Unknown,
    /// Who differs from most; 0 where most are not alike: then nobody knows whose data are right.
    Differ(Vec<u64>),
}

fn judge_compaction(own_id: u64, own: KvHash, others: &[(u64, Result<Hashed, String>)]) -> Verdict {
    let mut by_hash = BTreeMap::from([(own.hash, vec![own_id])]);
    let mut compared = 0;
    for (id, told) in others {
        let Ok(Hashed { hash, .. }) = told else { continue };
        // Compacted to another revision, other things are hashed.
        if hash.compacted == own.compacted {
            compared += 1;
            by_hash.entry(hash.hash).or_default().push(*id);
        }
    }
    if by_hash.len() == 1 {
        return if compared == others.len() { Verdict::Same } else { Verdict::Unknown };
    }
    let most = by_hash.values().position(|members| members.len() > others.len().div_ceil(2));
    match most {
        Some(most) => {
            let differ = by_hash.into_values().enumerate().filter(|(at, _)| *at != most);
            Verdict::Differ(differ.flat_map(|(_, members)| members).collect())
        }
        None => Verdict::Differ(vec![0]),
    }
}

async fn check_all(services: Rc<Services>, interval: Duration) {
    let shard = services.shard.clone();
    loop {
        runtime::sleep(interval).await;
        if !checks(&shard) {
            continue;
        }
        match check(&services).await {
            Ok(None) => log!(Debug, "finished hash check"),
            Ok(Some((id, why))) => {
                log!(Error, "the data are corrupt; raising the alarm CORRUPT", "member-id" = hex(id), "error" = why);
                services.raise_of(id, AlarmType::Corrupt).await;
            }
            Err(status) => log!(Warn, "failed to check hash KV", "error" = status.message.as_ref()),
        }
    }
}

/// Compares the spans that have ended since the last ones that were alike.
async fn compare_spans(services: Rc<Services>) {
    let shard = services.shard.clone();
    let member = &shard.member;
    let patience = Duration::from_millis(member.config.request_timeout_ms());
    let mut compared = BTreeMap::<u64, u64>::new();
    loop {
        runtime::sleep(Duration::from_millis(limits::SPAN_CHECK_MS)).await;
        let others: Vec<_> =
            shard.view().state.membership.members().filter(|other| other.id != member.id).cloned().collect();
        compared.retain(|id, _| others.iter().any(|other| other.id == *id));
        if others.is_empty() || !checks(&shard) {
            continue;
        }
        let own: BTreeMap<u64, u32> = member.span_hashes.after(0).iter().map(|span| (span.last, span.hash)).collect();
        let Some((newest, _)) = own.last_key_value() else { continue };
        let mut told = Vec::new();
        for other in &others {
            // All that this member can compare with was alike.
            if compared.get(&other.id).is_some_and(|until| until >= newest) {
                continue;
            }
            match remote::spans(&services.client, other, member.cluster_id, patience).await {
                Ok(Some(spans)) => told.push((other.id, spans)),
                Ok(None) => {}
                Err(cause) => {
                    let id = hex(other.id);
                    log!(Debug, "cannot compare spans of entries", "remote-peer-id" = id, "error" = shown(&cause));
                }
            }
        }
        let Some((last, differ)) = judge_spans(member.id, &own, &told, &mut compared) else { continue };
        log!(
            Error,
            "what a span of entries did differs between members",
            "local-member-id" = hex(member.id),
            "last-entry" = last,
            "corrupt-members" = shown(format!("{differ:x?}"))
        );
        for id in differ {
            services.raise_of(id, AlarmType::Corrupt).await;
        }
    }
}

/// The first span that is not alike on all who have told of it, and who differs from most in it; 0 where most are not alike.
/// `compared`: the last span of each other member's that was like this one's.
fn judge_spans(
    own_id: u64,
    own: &BTreeMap<u64, u32>,
    others: &[(u64, BTreeMap<u64, u32>)],
    compared: &mut BTreeMap<u64, u64>,
) -> Option<(u64, Vec<u64>)> {
    for (last, hash) in own {
        let told = others.iter().filter_map(|(id, spans)| Some((*id, *spans.get(last)?)));
        let told: Vec<(u64, u32)> = told.chain([(own_id, *hash)]).collect();
        let most = told.iter().map(|(_, hash)| told.iter().filter(|(_, other)| other == hash).count()).max()?;
        if most == told.len() {
            compared.extend(told.iter().filter(|(id, _)| *id != own_id).map(|(id, _)| (*id, *last)));
            continue;
        }
        let of_most = |of: &(u64, u32)| told.iter().filter(|(_, other)| *other == of.1).count() == most;
        let differ: Vec<u64> = told.iter().filter(|one| !of_most(one)).map(|(id, _)| *id).collect();
        return Some((*last, if 2 * most > told.len() { differ } else { vec![0] }));
    }
    None
}

/// Whose data are corrupt, and why that is known; None if nobody's.
///
/// # Errors
/// Where nobody can tell: the data cannot be read now, or this member does not lead any more.
async fn check(services: &Services) -> Result<Option<(u64, String)>, Status> {
    let shard = &services.shard;
    let own_id = shard.member.id;
    let view = shard.view();
    let revision = view.revision();
    let first = match hashed(view, revision).await {
        Ok(hash) => hash,
        Err(cause) => return judge_reading(own_id, &cause),
    };
    let others = of_others(services, revision).await;
    let later = shard.linearizable().await?;
    let (newest, compacted) = (later.revision(), later.state.index.compacted());
    // What is compacted away is not there to be hashed again.
    if compacted == first.compacted {
        match hashed(later, revision).await {
            Ok(second) if second == first => {}
            Ok(second) => {
                let why = format!("the hash of revision {revision} was {}, and is {}", first.hash, second.hash);
                return Ok(Some((own_id, why)));
            }
            Err(cause) => return judge_reading(own_id, &cause),
        }
    }
    let differs = others.iter().find_map(|(id, told)| {
        let why = judge_other(first, newest, compacted, told.as_ref().ok()?)?;
        Some((*id, why))
    });
    log!(
        Info,
        "finished peer corruption check",
        "number-of-peers-checked" = others.iter().filter(|(_, told)| told.is_ok()).count() as u64
    );
    Ok(differs)
}

/// What is wrong with another member, by what it tells of the revision that `own` is of. `newest` and `compacted`: this
/// member's revisions after it was asked.
fn judge_other(own: KvHash, newest: i64, compacted: i64, told: &Hashed) -> Option<String> {
    if told.newest > newest {
        return Some(format!("it has revision {}, the leader has {newest}", told.newest));
    }
    if told.hash.compacted > compacted {
        return Some(format!("it is compacted to {}, the leader to {compacted}", told.hash.compacted));
    }
    let differs = told.hash.compacted == own.compacted && told.hash.hash != own.hash;
    differs.then(|| format!("its hash of revision {} is {}, the leader's {}", own.revision, told.hash.hash, own.hash))
}

async fn hashed(view: Arc<View>, revision: i64) -> io::Result<KvHash> {
    runtime::bulk(move || hash::hash_kv(&view.state.index, revision, &view.segments)).await
}

/// What is read and is not what was written is corrupt; what cannot be read may be read another time.
fn judge_reading(own_id: u64, cause: &io::Error) -> Result<Option<(u64, String)>, Status> {
    match cause.kind() {
        io::ErrorKind::InvalidData => Ok(Some((own_id, cause.to_string()))),
        _ => Err(crate::error::unreadable(cause)),
    }
}

/// Before anything is served: whether other members have the same at this member's revision. Whoever cannot be asked does not
/// keep it from starting.
///
/// # Errors
/// They have something else.
pub(super) async fn check_at_start(services: &Services) -> Result<(), String> {
    let member = &services.shard.member;
    log!(
        Info,
        "starting initial corruption check",
        "local-member-id" = hex(member.id),
        "timeout" = Duration::from_millis(member.config.request_timeout_ms())
    );
    let view = services.shard.view();
    let revision = view.revision();
    let own =
        hashed(view, revision).await.map_err(|cause| format!("{:x} failed to fetch hash ({cause})", member.id))?;
    let mut differ = 0;
    for (id, told) in of_others(services, revision).await {
        match told {
            Ok(told) if told.hash.hash != own.hash => {
                let message = match told.hash.compacted == own.compacted {
                    true => "found different hash values from remote peer",
                    false => "found different compact revision values from remote peer",
                };
                differ += u32::from(told.hash.compacted == own.compacted);
                log!(
                    Warn,
                    message,
                    "local-member-id" = hex(member.id),
                    "local-member-revision" = own.revision,
                    "local-member-compact-revision" = own.compacted,
                    "local-member-hash" = u64::from(own.hash),
                    "remote-peer-id" = hex(id),
                    "remote-peer-revision" = told.newest,
                    "remote-peer-compact-revision" = told.hash.compacted,
                    "remote-peer-hash" = u64::from(told.hash.hash)
                );
            }
            Ok(_) => {}
            Err(cause) => log!(
                Warn,
                "cannot fetch hash from remote peer",
                "local-member-id" = hex(member.id),
                "local-member-revision" = own.revision,
                "remote-peer-id" = hex(id),
                "error" = shown(&cause)
            ),
        }
    }
    if differ > 0 {
        return Err(format!("{:x} found data inconsistency with peers", member.id));
    }
    log!(Info, "initial corruption checking passed; no corruption", "local-member-id" = hex(member.id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(hash: u32, compacted: i64) -> KvHash {
        KvHash { hash, compacted, revision: 9 }
    }

    fn told(hash: u32, compacted: i64) -> Result<Hashed, String> {
        Ok(Hashed { hash: kv(hash, compacted), newest: 9 })
    }

    #[test]
    fn who_differs_from_most_is_corrupt() {
        let judge = |others: &[(u64, Result<Hashed, String>)]| judge_compaction(1, kv(7, 5), others);
        assert_eq!(judge(&[(2, told(7, 5)), (3, told(7, 5))]), Verdict::Same);
        assert_eq!(judge(&[(2, told(7, 5)), (3, Err("unreachable".into()))]), Verdict::Unknown);
        assert_eq!(judge(&[(2, told(7, 5)), (3, told(8, 4))]), Verdict::Unknown, "compacted to something else");
        assert_eq!(judge(&[(2, told(7, 5)), (3, told(8, 5))]), Verdict::Differ(vec![3]));
        // The leader itself.
        assert_eq!(judge(&[(2, told(8, 5)), (3, told(8, 5))]), Verdict::Differ(vec![1]));
        // One against one.
        assert_eq!(judge(&[(2, told(8, 5))]), Verdict::Differ(vec![0]));
        assert_eq!(judge(&[(2, told(8, 5)), (3, Err("unreachable".into()))]), Verdict::Differ(vec![0]));
        let four = [(2, told(7, 5)), (3, told(8, 5)), (4, told(8, 5))];
        assert_eq!(judge(&four), Verdict::Differ(vec![0]), "two against two");
        let five = [(2, told(7, 5)), (3, told(8, 5)), (4, told(7, 5)), (5, told(9, 5))];
        assert_eq!(judge(&five), Verdict::Differ(vec![3, 5]));
    }

    #[test]
    fn who_differs_in_a_span_is_corrupt() {
        let spans = |of: &[(u64, u32)]| of.iter().copied().collect::<BTreeMap<u64, u32>>();
        let own = spans(&[(8, 1), (16, 2), (24, 3)]);
        let judge = |others: &[&[(u64, u32)]]| {
            let others: Vec<_> = others.iter().zip(2..).map(|(of, id)| (id, spans(of))).collect();
            let mut compared = BTreeMap::new();
            (judge_spans(1, &own, &others, &mut compared), compared.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(judge(&[&[(8, 1), (16, 2), (24, 3)], &[(8, 1), (16, 2)]]), (None, vec![(2, 24), (3, 16)]));
        // Who is behind, or began in the middle, is compared as far as there is something to compare.
        assert_eq!(judge(&[&[], &[(24, 3), (32, 9)]]), (None, vec![(3, 24)]));
        assert_eq!(judge(&[&[(16, 2)], &[(16, 7)]]), (Some((16, vec![3])), vec![]));
        assert_eq!(judge(&[&[(16, 7)], &[(16, 7)]]), (Some((16, vec![1])), vec![]), "the leader itself");
        assert_eq!(judge(&[&[(8, 1), (16, 7)]]), (Some((16, vec![0])), vec![(2, 8)]), "one against one");
        assert_eq!(judge(&[&[(8, 7)], &[(8, 9)]]), (Some((8, vec![0])), vec![]));
    }

    #[test]
    fn a_follower_is_never_ahead() {
        let judge = |hash, compacted, newest| {
            judge_other(kv(7, 5), 20, 6, &Hashed { hash: kv(hash, compacted), newest }).is_some()
        };
        assert!(!judge(7, 5, 20));
        assert!(judge(8, 5, 20) && judge(7, 5, 21) && judge(7, 7, 20));
        assert!(!judge(8, 4, 20) && !judge(8, 6, 20), "compacted to something else, other things are hashed");
    }
}
