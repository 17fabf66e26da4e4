//! What is done on the machines of the members, which cannot be reached from here: by a command of the operator's, or by the
//! operator, who is told.

use std::{os::unix::process::CommandExt, process::Stdio};

use super::{
    plan::Replacement,
    steps::{Facts, Member},
};

/// Variables in the order in which they are told.
pub type Variables = Vec<(&'static str, String)>;

/// What the new member has to know to join, as `etcdctl member add` prints it, and who it is. Of a cluster that states `version`
/// 3.6, that a member of urd is to keep it there, which a member of etcd takes no notice of.
pub fn of_start(replacement: &Replacement, facts: &Facts, version: Option<&str>) -> Variables {
    let mut cluster: Vec<String> = Vec::new();
    for member in facts.members.iter().filter(|member| member.peer_urls != replacement.peer_urls) {
        cluster.extend(member.peer_urls.iter().map(|url| format!("{}={url}", member.name)));
    }
    cluster.extend(replacement.peer_urls.iter().map(|url| format!("{}={url}", replacement.new)));
    let mut variables = vec![
        ("ETCD_NAME", replacement.new.clone()),
        ("ETCD_INITIAL_CLUSTER", cluster.join(",")),
        ("ETCD_INITIAL_ADVERTISE_PEER_URLS", replacement.peer_urls.join(",")),
        ("ETCD_INITIAL_CLUSTER_STATE", "existing".to_owned()),
    ];
    if !replacement.client_urls.is_empty() {
        variables.push(("ETCD_ADVERTISE_CLIENT_URLS", replacement.client_urls.join(",")));
    }
    if version.is_some_and(|version| version.starts_with("3.6.")) {
        variables.push(("ETCD_MAX_CLUSTER_VERSION", "3.6".to_owned()));
    }
    variables
}

/// What is known of the member that has left. `left`: nothing after a run was interrupted.
pub fn of_stop(replacement: &Replacement, left: Option<&Member>) -> Variables {
    let of_member = |text: fn(&Member) -> String| left.map(text).unwrap_or_default();
    vec![
        ("URD_OLD_NAME", replacement.old.clone()),
        ("URD_OLD_ID", of_member(|member| format!("{:x}", member.id))),
        ("URD_OLD_PEER_URLS", of_member(|member| member.peer_urls.join(","))),
        ("URD_OLD_CLIENT_URLS", of_member(|member| member.client_urls.join(","))),
        ("URD_NEW_NAME", replacement.new.clone()),
    ]
}

/// As a shell takes it.
pub fn shown(variables: &Variables) -> String {
    let one = |(name, value): &(&str, String)| format!("    {name}='{}'\n", value.replace('\'', r"'\''"));
    variables.iter().map(one).collect()
}

/// Runs a command of the operator's to its end, in a process group of its own: who ends this program by Ctrl-C does not end
/// what is being started.
///
/// # Errors
/// How it ended.
pub fn run(command: &str, variables: &Variables) -> Result<(), String> {
    let ended = std::process::Command::new("/bin/sh")
        .args(["-c", command])
        .envs(variables.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .process_group(0)
        .status()
        .map_err(|cause| format!("/bin/sh cannot be run: {cause}"))?;
    match ended.success() {
        true => Ok(()),
        false => Err(format!("`{command}` ended with {ended}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_member_is_told_of_all() {
        let member = |name: &str, urls: &[&str]| Member {
            id: 1,
            name: name.into(),
            peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            client_urls: Vec::new(),
            is_learner: false,
            answer: Err(String::new()),
        };
        let facts = Facts { members: vec![member("m1", &["http://a:1", "http://b:1"]), member("", &["http://c:1"])] };
        let replacement = Replacement {
            old: "m1".into(),
            new: "it's".into(),
            peer_urls: vec!["http://c:1".into()],
            client_urls: Vec::new(),
        };
        let variables = of_start(&replacement, &facts, Some("3.7.0"));
        assert_eq!(variables[1].1, "m1=http://a:1,m1=http://b:1,it's=http://c:1");
        assert_eq!(variables.len(), 4);
        assert_eq!(of_start(&replacement, &facts, Some("3.6.0"))[4], ("ETCD_MAX_CLUSTER_VERSION", "3.6".to_owned()));
        assert!(shown(&variables).starts_with("    ETCD_NAME='it'\\''s'\n"));
    }

    #[test]
    fn commands_are_run_with_what_is_known() {
        let variables = vec![("URD_OLD_NAME", "a b".to_owned())];
        run(r#"test "$URD_OLD_NAME" = "a b""#, &variables).unwrap();
        let told = run("exit 3", &variables).unwrap_err();
        assert!(told.contains("exit 3") && told.contains("status: 3"), "{told}");
    }
}
