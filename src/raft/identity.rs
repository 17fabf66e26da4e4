//! The ids of a cluster and of its founding members. They are hashes of what every founder is configured with, so that
//! the members agree on them before they have spoken to one another, and so that urd's are the ones etcd would give.

use sha1::{Digest, Sha1};

/// The id of a founding member: the head of SHA-1 over its peer URLs, sorted and joined without a separator, and the
/// cluster's token (etcd: membership.NewMember).
pub fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    hash.update(token);
    head(hash)
}

/// The id of a member that is added to a running cluster: of its peer URLs and the moment, in Unix seconds, so that who
/// comes back to the same place is somebody else.
pub fn added_member_id(peer_urls: &[String], now_seconds: u64) -> u64 {
    member_id(peer_urls, &now_seconds.to_string())
}

/// From where a member counts the ids that it gives in this life, of requests and read indexes: two bytes of its own id,
/// five of a number that is drawn anew, one to count in, so that those of two lives, and of two members, do not meet: an
/// answer to what a former life has asked would be taken for one to what this life asks. (etcd: idutil.NewGenerator, whose
/// five bytes are the clock's: where that is set back they come again.)
pub fn first_id(member: u64, drawn: u64) -> u64 {
    (member & 0xffff) << 48 | (drawn & 0xff_ffff_ffff) << 8
}

/// The id of a cluster: the head of SHA-1 over its founders' ids in ascending order, eight big-endian bytes each
/// (etcd: membership.RaftCluster.genID).
pub fn cluster_id(founders: &[u64]) -> u64 {
    let mut sorted = founders.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.to_be_bytes());
    }
    head(hash)
}

fn head(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 digest has 20 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|url| url.to_string()).collect()
    }

    /// Ids printed by reference 3.7.3 servers started with these settings.
    #[test]
    fn ids_are_the_ones_etcd_gives() {
        let one = member_id(&urls(&["http://127.0.0.1:27792"]), "tok-1");
        assert_eq!(one, 0xb595_7501_b2cd_89fd);
        assert_eq!(cluster_id(&[one]), 0x14f9_9380_3321_9924);

        let two_urls = member_id(&urls(&["http://127.0.0.1:27797", "http://127.0.0.1:27796"]), "");
        assert_eq!(two_urls, 0xcf51_0979_4b37_cc85);
        assert_eq!(cluster_id(&[two_urls]), 0x01ad_f7c3_3f3f_8df1);

        let three = ["http://127.0.0.1:27796", "http://127.0.0.1:1", "http://127.0.0.1:2"]
            .map(|url| member_id(&urls(&[url]), "etcd-cluster"));
        assert_eq!(three, [0x6eef_6eb5_979b_b02d, 0x58a8_8bf9_7839_8f80, 0x43cc_f13c_9d84_d8d2]);
        assert_eq!(cluster_id(&three), 0xdaef_858e_dd32_eccf);
    }

    #[test]
    fn order_does_not_matter() {
        let forth = urls(&["http://127.0.0.1:27796", "http://127.0.0.1:27797"]);
        let back: Vec<String> = forth.iter().rev().cloned().collect();
        assert_eq!(member_id(&forth, "t"), member_id(&back, "t"));
        assert_ne!(member_id(&forth, "t"), member_id(&forth, "u"));
        assert_eq!(cluster_id(&[1, 2, 3]), cluster_id(&[3, 1, 2]));
    }
}
