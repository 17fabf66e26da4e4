//! Values that this member cannot read, asked of one member after the other. What is told is believed if it is as long as the
//! value was and its checksum is right, over this member's own key: a connection may change a bit, and a member of another
//! history may have another key at that revision.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode};

use super::{
    Peers,
    body::{Fault, Reader},
    client::whole,
    peer::Peer,
};
use crate::{
    log,
    observe::log::{hex, shown},
    raft::scrub::Wanted,
    runtime,
    wire::values::{self, HEAD_BYTES, Told},
};

const PATH: &str = "/urd/values";

/// None for each that nobody gives.
pub(super) async fn ask(peers: &Peers, wanted: &[Wanted]) -> Vec<Option<Bytes>> {
    let mut got = vec![None; wanted.len()];
    let members: Vec<Rc<Peer>> = peers.table.borrow().values().filter(|peer| peer.is_known).cloned().collect();
    for member in members {
        let missing: Vec<usize> = (0..wanted.len()).filter(|at| got[*at].is_none()).collect();
        let mut rest = &missing[..];
        while !rest.is_empty() {
            let asked: Vec<Wanted> = rest.iter().map(|at| wanted[*at]).collect();
            match ask_one(peers, &member, &asked).await {
                Ok(told) => {
                    let (now, later) = rest.split_at(told.len());
                    now.iter().zip(told).for_each(|(at, value)| got[*at] = value);
                    rest = later;
                }
                Err(why) => {
                    log!(
                        Warn,
                        "another member does not give values that this one cannot read",
                        "remote-peer-id" = hex(member.id),
                        "values" = rest.len() as u64,
                        "error" = shown(&why)
                    );
                    break;
                }
            }
        }
    }
    got
}

/// What a member tells of the first of them, one at least.
async fn ask_one(peers: &Peers, member: &Peer, wanted: &[Wanted]) -> Result<Vec<Option<Bytes>>, String> {
    let url = member.urls.borrow().pick().ok_or("it has no URL")?;
    let revisions: Vec<(i64, i64)> = wanted.iter().map(|one| (one.revision.main, one.revision.sub)).collect();
    let question = serde_json::to_vec(&revisions).expect("numbers have a JSON form");
    let bytes_max = wanted.iter().map(|one| one.len as usize + HEAD_BYTES).sum();
    let mut headers = peers.headers();
    headers.push(("content-type", "application/json"));
    let unreachable = || member.urls.borrow_mut().unreachable(&url);
    let asked = async {
        let asked = peers.client.ask(&url, PATH, Method::POST, &headers, whole(question)).await;
        let (response, kept) = asked.inspect_err(|_| unreachable())?;
        let (head, body) = response.into_parts();
        let body = match head.status {
            StatusCode::OK => Reader::new(body).whole(bytes_max).await.map_err(Fault::text)?,
            StatusCode::NOT_FOUND => return Err("it is no urd, or an older one".to_owned()),
            status => return Err(format!("it answers with {status}")),
        };
        kept.keep();
        Ok(body)
    };
    let patience = Duration::from_millis(peers.member.config.request_timeout_ms());
    let answer = runtime::timeout(patience, asked).await.unwrap_or_else(|| {
        unreachable();
        Err("i/o timeout".into())
    });
    read(answer?, wanted)
}

/// What an answer says of the first of what was asked for.
fn read(mut answer: Bytes, wanted: &[Wanted]) -> Result<Vec<Option<Bytes>>, String> {
    let mut told = Vec::new();
    for one in wanted {
        if answer.is_empty() {
            break;
        }
        told.push(match values::take(&mut answer).ok_or("its answer cannot be read")? {
            Told::Nothing => None,
            Told::Value { value, crc } => {
                let is_it = value.len() == one.len as usize && crc32c::crc32c_append(one.key_crc, &value) == crc;
                is_it.then_some(value)
            }
        });
    }
    if told.is_empty() || !answer.is_empty() {
        return Err("its answer is not of what was asked for".into());
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::types::Revision;

    fn wanted(main: i64, key: &[u8], len: u32) -> Wanted {
        Wanted { revision: Revision::new(main, 0), len, key_crc: crc32c::crc32c(key) }
    }

    #[test]
    fn only_the_value_of_the_same_key_and_length_is_believed() {
        let mut answer = Vec::new();
        for (key, value) in [("a", "one"), ("b", "two"), ("c", "three")] {
            values::put(&mut answer, key.as_bytes(), value.as_bytes());
        }
        values::put_nothing(&mut answer);
        // Another key, and another length.
        let asked =
            [wanted(2, b"a", 3), wanted(3, b"x", 3), wanted(4, b"c", 4), wanted(5, b"d", 1), wanted(6, b"e", 1)];
        let told = read(answer.clone().into(), &asked).unwrap();
        assert_eq!(
            told,
            [Some(Bytes::from_static(b"one")), None, None, None],
            "and the fifth is to be asked for again"
        );
        let of_first = answer.iter().position(|byte| *byte == b'o').unwrap();
        let mut changed = answer.clone();
        changed[of_first] ^= 1;
        assert_eq!(read(changed.into(), &asked).unwrap()[0], None);
        for broken in [&answer[..answer.len() - 3], &[][..], &[7][..]] {
            read(Bytes::copy_from_slice(broken), &asked).expect_err("no whole answer");
        }
        read(answer.into(), &asked[..2]).expect_err("more than was asked for");
    }
}
