//! A discovery service: a cluster under whose keys the members of a cluster to be founded register, until there are as many as
//! a key says. Who registered first is in; who comes late is refused. (etcd: etcdserver/api/v3discovery.)
//!
//! `/_etcd/registry/TOKEN/_config/size` holds the number, in decimal; `/_etcd/registry/TOKEN/members/ID` holds
//! `NAME=URL,…` of one member.

use std::time::Duration;

use super::client::{Client, Failure};
use crate::{
    config::{bootstrap::parse_cluster, discovery::Service},
    limits, log,
    observe::log::shown,
    proto::mvccpb::KeyValue,
    runtime,
};

const INVALID_URL: &str = "discovery: invalid peer URL";
const BAD_SIZE: &str = "discovery: size key is bad";
const SIZE_NOT_FOUND: &str = "discovery: size key not found";
const FULL_CLUSTER: &str = "discovery: cluster is full";

/// Registers this member, told as `NAME=URL,…`, waits until all are there, and gives them as `--initial-cluster` would name
/// them. Waits for as long as it takes: nobody but an operator knows whether others will come.
///
/// # Errors
/// Why there is no place for it, or no way to ask.
pub async fn join(service: Service, member_id: u64, own: &str) -> Result<String, String> {
    let endpoints = service.endpoints.join(",");
    let client = Client::new(&service).map_err(|cause| cause.to_string())?;
    client.log_in().await.map_err(|cause| cause.to_string())?;
    let members = members_prefix(&service.token);
    let registry = Registry {
        client,
        size_key: key_of(&[&service.token, "_config/size"]),
        own_key: format!("{members}/{member_id:x}"),
        members,
        token: service.token,
        endpoints,
    };
    let joined = registry.join(own).await;
    match &joined {
        Ok(cluster) => registry.tell_joined(cluster),
        Err((cluster, cause)) => registry.tell_refused(cluster, cause),
    }
    joined.map_err(|(_, cause)| cause)
}

/// A path of the registry, tidied up as Go tidies paths up: what an operator has put into a token must lead both kinds of
/// members to the same keys. (Go: path.Join.)
fn key_of(parts: &[&str]) -> String {
    let mut names = vec!["_etcd", "registry"];
    for name in parts.iter().flat_map(|part| part.split('/')) {
        match name {
            "" | "." => {}
            ".." => _ = names.pop(),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

fn members_prefix(token: &str) -> String {
    key_of(&[token, "members"])
}

/// How long to wait before the service is asked once more, after so many failures in a row.
fn pause(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(limits::DISCOVERY_PAUSE_DOUBLINGS_MAX))
}

struct Registry {
    client: Client,
    token: String,
    endpoints: String,
    size_key: String,
    members: String,
    own_key: String,
}

/// A line about this registry.
macro_rules! tell {
    ($level:ident, $registry:expr, $message:expr $(, $key:literal = $value:expr)* $(,)?) => {
        log!(
            $level,
            $message,
            "discovery-token" = $registry.token,
            "discovery-endpoints" = $registry.endpoints
            $(, $key = $value)*
        )
    };
}

/// Who has registered, at a revision of the service's.
struct Seen {
    registered: Registered,
    size: usize,
    revision: i64,
}

/// What keeps a member out, beside the members as far as they are known.
type Refusal = (String, String);

fn refusal(cause: &str) -> Refusal {
    (String::new(), cause.to_owned())
}

impl Registry {
    async fn join(&self, own: &str) -> Result<String, Refusal> {
        self.look().await?;
        self.register(own).await;
        let mut seen = self.look().await?;
        while seen.registered.members.len() < seen.size {
            // Whoever registered while nothing could be heard is found by looking once more.
            if !self.wait(&mut seen).await {
                seen = self.look().await?;
            }
        }
        seen.registered.cluster(seen.size)
    }

    /// Asks until there is an answer. There must be a place for this member, whether or not it has taken it already.
    async fn look(&self) -> Result<Seen, Refusal> {
        let mut failures = 0;
        let seen = loop {
            if let Some(seen) = self.try_look().await? {
                break seen;
            }
            failures += 1;
            self.rest("cluster status check", failures).await;
        };
        match seen.registered.has_place(&self.own_key, seen.size) {
            true => Ok(seen),
            false => Err(refusal(FULL_CLUSTER)),
        }
    }

    /// None: the service could not be asked.
    async fn try_look(&self) -> Result<Option<Seen>, Refusal> {
        let found = match self.client.get(&self.size_key).await {
            Ok(found) => found.kvs,
            Err(cause) => {
                let message = "failed to get cluster size from discovery service";
                tell!(Warn, self, message, "clusterSizeKey" = self.size_key, "error" = shown(&cause));
                return Ok(None);
            }
        };
        let size = size_of(found.first())?;
        let found = match self.client.get_prefix(&self.members).await {
            Ok(found) => found,
            Err(cause) => {
                let message = "failed to get cluster members from discovery service";
                tell!(Warn, self, message, "membersKeyPrefix" = self.members, "error" = shown(&cause));
                return Ok(None);
            }
        };
        let mut registered = Registered::default();
        found.kvs.iter().for_each(|kv| self.add(&mut registered, kv));
        let revision = found.header.map_or(0, |header| header.revision);
        Ok(Some(Seen { registered, size, revision }))
    }

    async fn register(&self, own: &str) {
        let mut failures = 0;
        while let Err(cause) = self.client.put(&self.own_key, own).await {
            let message = "failed to register members itself to the discovery service";
            tell!(Warn, self, message, "memberKey" = self.own_key, "error" = shown(&cause));
            failures += 1;
            self.rest("register member itself", failures).await;
        }
        let message = "register member itself successfully";
        tell!(Info, self, message, "memberKey" = self.own_key, "memberInfo" = own);
    }

    /// Listens until all are there; false: something may have been missed.
    async fn wait(&self, seen: &mut Seen) -> bool {
        let (size, found) = (seen.size, seen.registered.members.len());
        let message = "waiting for peers from discovery service";
        tell!(Info, self, message, "clusterSize" = size, "found-peers" = found);
        while seen.registered.members.len() < seen.size {
            match self.listen(seen).await {
                Ok(()) => {}
                // It goes on behind what it has heard.
                Err(Failure::Lost(_)) => runtime::sleep(Duration::from_millis(limits::DISCOVERY_DIAL_AGAIN_MS)).await,
                Err(cause) => {
                    let message = "cannot watch the members at the discovery service";
                    tell!(Warn, self, message, "membersKeyPrefix" = self.members, "error" = shown(&cause));
                    self.rest("members watch", 1).await;
                    return false;
                }
            }
        }
        let found = seen.registered.members.len();
        let message = "found all needed peers from discovery service";
        tell!(Info, self, message, "clusterSize" = size, "found-peers" = found);
        true
    }

    /// Takes in what one watch tells, until all are there.
    async fn listen(&self, seen: &mut Seen) -> Result<(), Failure> {
        let mut watch = self.client.watch(&self.members, seen.revision + 1).await?;
        while seen.registered.members.len() < seen.size {
            let told = watch.next().await?;
            for event in &told.events {
                if let Some(kv) = &event.kv {
                    self.add(&mut seen.registered, kv);
                    seen.revision = seen.revision.max(kv.mod_revision);
                }
            }
        }
        Ok(())
    }

    fn add(&self, registered: &mut Registered, kv: &KeyValue) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let (key, member) = (text(&kv.key), text(&kv.value));
        match registered.add(&key, &member, kv.create_revision) {
            Ok(()) => {
                let message = "found peer from discovery service";
                tell!(Info, self, message, "memberKey" = key, "memberInfo" = member);
            }
            Err(why) => tell!(Warn, self, why, "memberKey" = key, "memberInfo" = member),
        }
    }

    async fn rest(&self, reason: &str, failures: u32) {
        let pause = pause(failures);
        tell!(Warn, self, "retry connecting to discovery service", "reason" = reason, "backoff" = pause);
        runtime::sleep(pause).await;
    }

    fn tell_joined(&self, cluster: &str) {
        tell!(Info, self, "discovery joined cluster successfully", "cluster" = cluster);
    }

    fn tell_refused(&self, cluster: &str, cause: &str) {
        tell!(Error, self, "discovery failed to join cluster", "cluster" = cluster, "error" = cause);
    }
}

fn size_of(found: Option<&KeyValue>) -> Result<usize, Refusal> {
    let Some(kv) = found else { return Err(refusal(SIZE_NOT_FOUND)) };
    let size = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse::<i64>().ok());
    size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0).ok_or_else(|| refusal(BAD_SIZE))
}

/// Members in the order in which they have registered.
#[derive(Debug, Default)]
struct Registered {
    members: Vec<Registration>,
}

#[derive(Debug)]
struct Registration {
    key: String,
    /// `NAME=URL,…`.
    member: String,
    created: i64,
}

impl Registered {
    /// # Errors
    /// Why it does not count, for the log.
    fn add(&mut self, key: &str, member: &str, created: i64) -> Result<(), &'static str> {
        if !member.contains('=') {
            return Err("invalid peer info returned from discovery service");
        }
        if self.members.iter().any(|known| known.key == key) {
            return Err("found duplicate peer from discovery service");
        }
        let at = self.members.partition_point(|known| known.created <= created);
        self.members.insert(at, Registration { key: key.to_owned(), member: member.to_owned(), created });
        Ok(())
    }

    /// Whether a member is among the first, or may still be.
    fn has_place(&self, key: &str, size: usize) -> bool {
        match self.members.iter().position(|known| known.key == key) {
            Some(at) => at < size,
            None => self.members.len() < size,
        }
    }

    /// The first ones, as `--initial-cluster` would name them.
    fn cluster(&self, size: usize) -> Result<String, Refusal> {
        let members: Vec<&str> = self.members.iter().take(size).map(|known| known.member.as_str()).collect();
        let cluster = members.join(",");
        match parse_cluster(&cluster) {
            Ok(_) => Ok(cluster),
            Err(_) => Err((cluster, INVALID_URL.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_etcd() {
        assert_eq!(key_of(&["t", "_config/size"]), "/_etcd/registry/t/_config/size");
        assert_eq!(members_prefix("t"), "/_etcd/registry/t/members");
        assert_eq!(members_prefix("a//b/./../c/"), "/_etcd/registry/a/c/members");
        assert_eq!(members_prefix("../../../x"), "/x/members");
    }

    #[test]
    fn who_registered_first_is_in() {
        let mut registered = Registered::default();
        assert!(registered.has_place("m", 1));
        registered.add("b", "b=http://b:1", 7).unwrap();
        registered.add("a", "a=http://a:1,a=http://a:2", 5).unwrap();
        registered.add("c", "c=http://c:1", 9).unwrap();
        assert_eq!(registered.add("c", "c=http://d:1", 10), Err("found duplicate peer from discovery service"));
        assert_eq!(registered.add("d", "", 10), Err("invalid peer info returned from discovery service"));
        assert_eq!(registered.cluster(2).unwrap(), "a=http://a:1,a=http://a:2,b=http://b:1");
        for (key, size, has) in [("a", 1, true), ("b", 1, false), ("c", 3, true), ("m", 3, false), ("m", 4, true)] {
            assert_eq!(registered.has_place(key, size), has, "{key} of {size}");
        }
        registered.add("e", "e=nowhere", 1).unwrap();
        assert_eq!(registered.cluster(1).unwrap_err(), ("e=nowhere".into(), INVALID_URL.into()));
    }

    #[test]
    fn a_size_is_a_number_above_zero() {
        let kv = |text: &str| KeyValue { value: text.to_owned().into(), ..KeyValue::default() };
        assert_eq!(size_of(Some(&kv("3"))), Ok(3));
        assert_eq!(size_of(Some(&kv("+3"))), Ok(3));
        for bad in ["", "0", "-1", " 3", "3.0", "three", "9223372036854775808"] {
            assert_eq!(size_of(Some(&kv(bad))), Err(refusal(BAD_SIZE)), "{bad}");
        }
        assert_eq!(size_of(None), Err(refusal(SIZE_NOT_FOUND)));
    }

    #[test]
    fn pauses_grow_up_to_four_minutes() {
        assert_eq!([1, 2, 8, 9, u32::MAX].map(|failures| pause(failures).as_secs()), [2, 4, 256, 256, 256]);
    }
}
