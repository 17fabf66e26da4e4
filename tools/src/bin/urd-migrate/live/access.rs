//! How the cluster is reached: etcdctl's flags and variables.

use std::{path::PathBuf, time::Duration};

use urd_client::Tls;

use super::cluster::Access;

#[derive(clap::Args)]
pub struct AccessArguments {
    /// Client URLs of some members; the others are found by them
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379", env = "ETCDCTL_ENDPOINTS")]
    endpoints: Vec<String>,
    /// The authority that the members' certificates are of
    #[arg(long, value_name = "FILE", env = "ETCDCTL_CACERT")]
    cacert: Option<PathBuf>,
    /// A certificate to show
    #[arg(long, value_name = "FILE", requires = "key", env = "ETCDCTL_CERT")]
    cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cert", env = "ETCDCTL_KEY")]
    key: Option<PathBuf>,
    /// Believe whoever answers, whatever certificate he shows
    #[arg(long, env = "ETCDCTL_INSECURE_SKIP_TLS_VERIFY")]
    insecure_skip_tls_verify: bool,
    /// A user that has the role root, NAME:PASSWORD, or NAME with --password
    #[arg(long, env = "ETCDCTL_USER", hide_env_values = true)]
    user: Option<String>,
    #[arg(long, requires = "user", env = "ETCDCTL_PASSWORD", hide_env_values = true, help = "The user's password")]
    password: Option<String>,
    /// A signed token, in place of a user
    #[arg(long, value_name = "TOKEN", conflicts_with = "user", env = "ETCDCTL_AUTH_JWT_TOKEN", hide_env_values = true)]
    auth_jwt_token: Option<String>,
    /// How long a member may take to answer, such as 5s or 500ms
    #[arg(long, default_value = "5s", value_parser = duration, env = "ETCDCTL_COMMAND_TIMEOUT")]
    command_timeout: Duration,
}

impl AccessArguments {
    /// # Errors
    /// What cannot be read, or is missing.
    pub fn open(&self) -> Result<Access, String> {
        let own = self.cert.as_deref().zip(self.key.as_deref());
        let tls = match (&self.cacert, self.insecure_skip_tls_verify) {
            (_, true) => Some(Tls::new(None, own)?),
            (Some(authority), false) => Some(Tls::new(Some(authority), own)?),
            (None, false) => None,
        };
        let user = match (&self.user, &self.password) {
            (None, _) => None,
            (Some(name), Some(password)) => Some((name.clone(), password.clone())),
            (Some(both), None) => {
                let (name, password) =
                    both.split_once(':').ok_or("--user is NAME:PASSWORD, or NAME with --password")?;
                Some((name.to_owned(), password.to_owned()))
            }
        };
        // What says no scheme is encrypted if anything is, as with etcdctl.
        let scheme = if tls.is_some() { "https" } else { "http" };
        let whole = |endpoint: &String| match endpoint.contains("://") {
            true => endpoint.trim_end_matches('/').to_owned(),
            false => format!("{scheme}://{endpoint}"),
        };
        Ok(Access {
            endpoints: self.endpoints.iter().map(whole).collect(),
            tls,
            user,
            jwt: self.auth_jwt_token.clone(),
            patience: self.command_timeout,
        })
    }
}

/// A number with `ms`, `s` or `m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err("a time is a number with ms, s or m".to_owned()),
    };
    let number: f64 = digits.parse().map_err(|_| "a time is a number with ms, s or m")?;
    match Duration::try_from_secs_f64(number * unit) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("a time is more than nothing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for wrong in ["5", "s", "", "0s", "-1s", "1h2"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
