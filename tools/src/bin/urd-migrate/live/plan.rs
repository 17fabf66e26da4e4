//! What is to be replaced by what. One line a replacement, in a file or as a flag's word:
//!
//! ```text
//! # old=new  peer URLs of the new one   its client URLs
//! m1=u1      https://10.0.0.4:2380      https://10.0.0.4:2379
//! ```

use std::{collections::BTreeSet, fmt, fs, path::Path};

use urd::config::url;

/// In the order in which it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan(pub Vec<Replacement>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    pub old: String,
    pub new: String,
    /// Sorted, as members' are.
    pub peer_urls: Vec<String>,
    /// Empty where the plan does not say.
    pub client_urls: Vec<String>,
}

impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}", self.old, self.new)
    }
}

impl Plan {
    /// # Errors
    /// Which line cannot be read, and why; or what does not fit together.
    pub fn read(file: Option<&Path>, words: &[String]) -> Result<Plan, String> {
        let mut all = Vec::new();
        if let Some(path) = file {
            let text = fs::read_to_string(path)
                .map_err(|cause| format!("cannot read the plan {}: {cause}", path.display()))?;
            for (at, line) in text.lines().enumerate() {
                let line = line.split('#').next().unwrap_or_default();
                if !line.trim().is_empty() {
                    all.push(parse(line).map_err(|cause| format!("{}, line {}: {cause}", path.display(), at + 1))?);
                }
            }
        }
        for word in words {
            all.push(parse(word).map_err(|cause| format!("--replace {word:?}: {cause}"))?);
        }
        let plan = Plan(all);
        plan.check()?;
        Ok(plan)
    }

    /// That no name and no URL is there twice.
    fn check(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Err(
                "no replacement is named: give --plan FILE, or --replace 'OLD=NEW PEER_URLS [CLIENT_URLS]'".into()
            );
        }
        let (mut names, mut urls) = (BTreeSet::new(), BTreeSet::new());
        for replacement in &self.0 {
            for name in [&replacement.old, &replacement.new] {
                if !names.insert(name) {
                    return Err(format!(
                        "the plan names {name} twice: every old and every new member has a name of its own"
                    ));
                }
            }
            for url in replacement.peer_urls.iter().chain(&replacement.client_urls) {
                if !urls.insert(url) {
                    return Err(format!("the plan has {url} twice"));
                }
            }
        }
        Ok(())
    }
}

fn parse(line: &str) -> Result<Replacement, String> {
    let mut words = line.split_whitespace();
    let form = "a replacement is OLD=NEW PEER_URLS [CLIENT_URLS], URLs of one kind separated by commas";
    let (old, new) = words.next().and_then(|names| names.split_once('=')).ok_or(form)?;
    if old.is_empty() || new.is_empty() || new.contains([',', '=']) {
        return Err(format!("{form}; names are not empty and have no comma in them"));
    }
    let peer_urls = urls(words.next().ok_or(form)?)?;
    let client_urls = words.next().map(urls).transpose()?.unwrap_or_default();
    match words.next() {
        None => Ok(Replacement { old: old.to_owned(), new: new.to_owned(), peer_urls, client_urls }),
        Some(more) => Err(format!("{form}; {more:?} is one word too many")),
    }
}

fn urls(text: &str) -> Result<Vec<String>, String> {
    let urls = url::parse_list(text)?;
    for url in &urls {
        url.check_host()?;
    }
    Ok(urls.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Plan, String> {
        Plan::read(None, &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn lines_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plan");
        fs::write(&file, "# old=new\n\n m1=u1  http://b:2,http://a:1\thttp://c:3 # the first\n").unwrap();
        let plan = Plan::read(Some(&file), &["m2=u2 https://d:4".to_owned()]).unwrap();
        let first = Replacement {
            old: "m1".into(),
            new: "u1".into(),
            peer_urls: vec!["http://a:1".into(), "http://b:2".into()],
            client_urls: vec!["http://c:3".into()],
        };
        assert_eq!(plan.0[0], first);
        assert_eq!(plan.0[1].to_string(), "m2 → u2");
        assert!(plan.0[1].client_urls.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (words, wanted) in [
            (&[][..], "no replacement is named"),
            (&["m1"], "a replacement is OLD=NEW"),
            (&["m1=u1"], "a replacement is OLD=NEW"),
            (&["m1= http://a:1"], "not empty"),
            (&["m1=u1 http://a:1 http://a:2 x"], "one word too many"),
            (&["m1=u1 a:1"], "URL"),
            (&["m1=u1 http://a:1 http://a:1"], "http://a:1 twice"),
            (&["m1=u1 http://a:1", "m2=u1 http://b:1"], "names u1 twice"),
            (&["m1=m1 http://a:1"], "names m1 twice"),
            (&["m1=u1 http://a:1", "m2=u2 http://a:1"], "http://a:1 twice"),
        ] {
            let told = read(words).unwrap_err();
            assert!(told.contains(wanted), "{words:?}: {told}");
        }
    }
}
