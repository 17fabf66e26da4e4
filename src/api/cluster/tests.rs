use super::*;
use crate::{
    api::testing::{Bench, CLUSTER_ID, MEMBER_ID, TERM},
    proto::etcdserverpb::AlarmRequest,
};

const OWN_URL: &str = "http://127.0.0.1:2380";

/// A cluster of one that has told its name.
fn alone(configure: impl FnOnce(&mut crate::config::Config)) -> Bench {
    let mut bench = Bench::with(configure);
    let own = membership::Member { id: MEMBER_ID, peer_urls: vec![OWN_URL.into()], ..Default::default() };
    let change = Change {
        kind: ConfChangeType::ConfChangeAddNode,
        member: MEMBER_ID,
        context: serde_json::to_vec(&own).unwrap().into(),
        promotes: None,
    };
    bench.state.membership.apply(&change.entry(0), 1).unwrap();
    bench.state.membership.set_attributes(MEMBER_ID, "n", &["http://127.0.0.1:2379".into()]);
    // A turn of the core publishes what the members have become.
    bench.call("/etcdserverpb.Maintenance/Alarm", &AlarmRequest::default()).unwrap();
    bench
}

fn add(bench: &mut Bench, urls: &[&str], is_learner: bool) -> Result<MemberAddResponse, Status> {
    let peer_ur_ls = urls.iter().map(|url| url.to_string()).collect();
    bench.ask("/etcdserverpb.Cluster/MemberAdd", &MemberAddRequest { peer_ur_ls, is_learner })
}

fn update(bench: &mut Bench, id: u64, urls: &[&str]) -> Result<MemberUpdateResponse, Status> {
    let peer_ur_ls = urls.iter().map(|url| url.to_string()).collect();
    bench.ask("/etcdserverpb.Cluster/MemberUpdate", &MemberUpdateRequest { id, peer_ur_ls })
}

fn remove(bench: &mut Bench, id: u64) -> Result<MemberRemoveResponse, Status> {
    bench.ask("/etcdserverpb.Cluster/MemberRemove", &MemberRemoveRequest { id })
}

#[test]
fn a_learner_is_added_told_of_and_removed() {
    let mut bench = alone(|_| {});
    let added = add(&mut bench, &[" http://127.0.0.1:2 ", "http://127.0.0.1:1"], true).unwrap();
    let wanted = ResponseHeader { cluster_id: CLUSTER_ID, member_id: MEMBER_ID, revision: 0, raft_term: TERM };
    assert_eq!(added.header, Some(wanted));
    let member = added.member.unwrap();
    assert_eq!(member.peer_ur_ls, ["http://127.0.0.1:1", "http://127.0.0.1:2"]);
    assert!(member.is_learner && member.name.is_empty() && member.id != 0);
    assert_eq!(added.members.len(), 2);
    assert!(added.members.is_sorted_by_key(|member| member.id) && added.members.contains(&member));

    assert_eq!(add(&mut bench, &["http://127.0.0.1:3"], true), Err(error::TOO_MANY_LEARNERS));
    assert_eq!(add(&mut bench, &[OWN_URL], true), Err(error::PEER_URL_EXIST), "found before the number of learners");
    assert_eq!(remove(&mut bench, member.id).unwrap().members.len(), 1);
    assert_eq!(remove(&mut bench, member.id), Err(error::MEMBER_NOT_FOUND));
    add(&mut bench, &["http://127.0.0.1:3"], true).unwrap();
}

#[test]
fn more_learners_are_let_in_where_the_operator_says_so() {
    let mut bench = alone(|_| {});
    bench.state.set_learners_max(2);
    add(&mut bench, &["http://127.0.0.1:1"], true).unwrap();
    add(&mut bench, &["http://127.0.0.1:2"], true).unwrap();
    assert_eq!(add(&mut bench, &["http://127.0.0.1:3"], true), Err(error::TOO_MANY_LEARNERS));
}

#[test]
fn urls_that_are_none_are_refused() {
    let mut bench = alone(|_| {});
    for urls in [&[][..], &["http://127.0.0.1"], &["garbage"], &["http://127.0.0.1:1", ""], &["ftp://a:1"]] {
        for is_learner in [false, true] {
            assert_eq!(add(&mut bench, urls, is_learner), Err(error::MEMBER_BAD_URLS), "{urls:?}");
        }
        assert_eq!(update(&mut bench, MEMBER_ID, urls), Err(error::MEMBER_BAD_URLS), "{urls:?}");
        assert_eq!(update(&mut bench, 77, urls), Err(error::MEMBER_NOT_FOUND), "{urls:?}");
    }
    assert!(bench.controls.is_empty(), "nothing of it was logged");
}

#[test]
fn a_voter_is_let_in_where_enough_run_to_be_a_quorum_without_it() {
    let mut bench = alone(|_| {});
    assert_eq!(add(&mut bench, &[OWN_URL], false), Err(error::PEER_URL_EXIST));
    // While this member has not told its name it does not count as one that runs.
    let (name, client_urls) = {
        let own = bench.state.membership.get(MEMBER_ID).unwrap();
        (own.name.clone(), own.client_urls.clone())
    };
    bench.state.membership.set_attributes(MEMBER_ID, "", &[]);
    bench.call("/etcdserverpb.Maintenance/Alarm", &AlarmRequest::default()).unwrap();
    assert_eq!(add(&mut bench, &["http://127.0.0.1:1"], false), Err(error::MEMBER_NOT_ENOUGH_STARTED));
    bench.state.membership.set_attributes(MEMBER_ID, &name, &client_urls);
    bench.call("/etcdserverpb.Maintenance/Alarm", &AlarmRequest::default()).unwrap();
    add(&mut bench, &["http://127.0.0.1:1"], false).unwrap();
    // Of two, of whom one has never run, a third would make a cluster without a quorum.
    assert_eq!(add(&mut bench, &["http://127.0.0.1:2"], false), Err(error::MEMBER_NOT_ENOUGH_STARTED));
    // A learner needs a quorum that has been connected for a while.
    assert_eq!(add(&mut bench, &["http://127.0.0.1:2"], true), Err(error::UNHEALTHY));
}

#[test]
fn the_last_voter_stays() {
    for strict in [true, false] {
        let mut bench = alone(|config| config.strict_reconfig_check = strict);
        assert_eq!(remove(&mut bench, MEMBER_ID), Err(error::MEMBER_NOT_ENOUGH_STARTED));
        assert_eq!(remove(&mut bench, 77), Err(error::MEMBER_NOT_FOUND));
        add(&mut bench, &["http://127.0.0.1:1"], true).unwrap();
        assert_eq!(remove(&mut bench, MEMBER_ID), Err(error::MEMBER_NOT_ENOUGH_STARTED), "a learner does not vote");
    }
}

#[test]
fn a_member_may_move() {
    let mut bench = alone(|_| {});
    let learner = add(&mut bench, &["http://127.0.0.1:1"], true).unwrap().member.unwrap();
    assert_eq!(update(&mut bench, MEMBER_ID, &["http://127.0.0.1:1"]), Err(error::PEER_URL_EXIST));
    let updated = update(&mut bench, MEMBER_ID, &["http://10.0.0.1:2380", "http://10.0.0.2:2380"]).unwrap();
    let own = updated.members.iter().find(|member| member.id == MEMBER_ID).unwrap();
    assert_eq!((own.peer_ur_ls.len(), own.name.as_str(), own.client_ur_ls.len()), (2, "n", 1));
    update(&mut bench, learner.id, &["http://127.0.0.1:9"]).unwrap();
    assert!(bench.state.membership.get(learner.id).unwrap().is_learner, "where it is says nothing of its vote");
}
