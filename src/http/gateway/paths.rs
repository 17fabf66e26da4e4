//! Which path is which method: the only list of the gateway's that is written by hand. All are called by POST.
//! (etcd: the google.api.http options of its .proto files.)

/// A path under `/v3/` and the method that it calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub path: &'static str,
    pub service: &'static str,
    pub method: &'static str,
}

impl Path {
    /// The method as gRPC names it.
    pub fn rpc(&self) -> String {
        format!("/{}/{}", self.service, self.method)
    }
}

macro_rules! paths {
    ($($service:literal { $($method:ident: $($path:literal),+;)* })*) => {
        &[$($($(Path { path: $path, service: $service, method: stringify!($method) },)+)*)*]
    };
}

pub const ALL: &[Path] = paths! {
    "etcdserverpb.KV" {
        Range: "/v3/kv/range";
        Put: "/v3/kv/put";
        DeleteRange: "/v3/kv/deleterange";
        Txn: "/v3/kv/txn";
        Compact: "/v3/kv/compaction";
    }
    "etcdserverpb.Watch" {
        Watch: "/v3/watch";
    }
    "etcdserverpb.Lease" {
        LeaseGrant: "/v3/lease/grant";
        LeaseRevoke: "/v3/lease/revoke", "/v3/kv/lease/revoke";
        LeaseKeepAlive: "/v3/lease/keepalive";
        LeaseTimeToLive: "/v3/lease/timetolive", "/v3/kv/lease/timetolive";
        LeaseLeases: "/v3/lease/leases", "/v3/kv/lease/leases";
    }
    "etcdserverpb.Cluster" {
        MemberAdd: "/v3/cluster/member/add";
        MemberRemove: "/v3/cluster/member/remove";
        MemberUpdate: "/v3/cluster/member/update";
        MemberList: "/v3/cluster/member/list";
        MemberPromote: "/v3/cluster/member/promote";
    }
    "etcdserverpb.Maintenance" {
        Alarm: "/v3/maintenance/alarm";
        Status: "/v3/maintenance/status";
        Defragment: "/v3/maintenance/defragment";
        Hash: "/v3/maintenance/hash";
        HashKV: "/v3/maintenance/hashkv";
        Snapshot: "/v3/maintenance/snapshot";
        MoveLeader: "/v3/maintenance/transfer-leadership";
        Downgrade: "/v3/maintenance/downgrade";
    }
    "etcdserverpb.Auth" {
        AuthEnable: "/v3/auth/enable";
        AuthDisable: "/v3/auth/disable";
        AuthStatus: "/v3/auth/status";
        Authenticate: "/v3/auth/authenticate";
        UserAdd: "/v3/auth/user/add";
        UserGet: "/v3/auth/user/get";
        UserList: "/v3/auth/user/list";
        UserDelete: "/v3/auth/user/delete";
        UserChangePassword: "/v3/auth/user/changepw";
        UserGrantRole: "/v3/auth/user/grant";
        UserRevokeRole: "/v3/auth/user/revoke";
        RoleAdd: "/v3/auth/role/add";
        RoleGet: "/v3/auth/role/get";
        RoleList: "/v3/auth/role/list";
        RoleDelete: "/v3/auth/role/delete";
        RoleGrantPermission: "/v3/auth/role/grant";
        RoleRevokePermission: "/v3/auth/role/revoke";
    }
    "v3lockpb.Lock" {
        Lock: "/v3/lock/lock";
        Unlock: "/v3/lock/unlock";
    }
    "v3electionpb.Election" {
        Campaign: "/v3/election/campaign";
        Proclaim: "/v3/election/proclaim";
        Leader: "/v3/election/leader";
        Observe: "/v3/election/observe";
        Resign: "/v3/election/resign";
    }
};

pub fn find(path: &str) -> Option<&'static Path> {
    ALL.iter().find(|known| known.path == path)
}

/// Whether a method, as gRPC names it, has a path.
pub fn has(rpc: &str) -> bool {
    let Some((service, method)) = rpc.strip_prefix('/').and_then(|rpc| rpc.split_once('/')) else { return false };
    ALL.iter().any(|known| (known.service, known.method) == (service, method))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::methods::METHODS;

    /// What etcd 3.7.3 gives no path.
    const WITHOUT: [&str; 4] = [
        "/etcdserverpb.KV/RangeStream",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
    ];

    #[test]
    fn every_method_has_its_path() {
        for (service, method, _) in METHODS {
            let rpc = format!("/{service}/{method}");
            assert_eq!(has(&rpc), !WITHOUT.contains(&&rpc[..]), "{rpc}");
        }
        for path in ALL {
            assert!(METHODS.iter().any(|(service, method, _)| (*service, *method) == (path.service, path.method)));
            assert_eq!(find(path.path), Some(path), "each path is there once");
        }
        assert_eq!(ALL.len(), METHODS.len() - WITHOUT.len() + 3, "three methods have two paths");
    }

    #[test]
    fn other_paths_are_unknown() {
        for path in ["/v3/", "/v3/kv/range/", "/v3/kv/Range", "/v3/kv/range:x", "/v3/kv", ""] {
            assert_eq!(find(path), None, "{path}");
        }
        assert!(!has("etcdserverpb.KV/Range") && !has("/etcdserverpb.KV") && !has("/etcdserverpb.KV/Nope"));
    }
}
