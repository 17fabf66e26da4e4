//! Passwords as bcrypt hashes. Either function takes as long as its cost says, tens of milliseconds at the usual one: so
//! they run on a background thread, never on an executor and never while something is applied.

use crate::error::{self, Status};

/// `--bcrypt-cost` where it is not given (etcd: bcrypt.DefaultCost), and what it may be.
pub const COST_DEFAULT: u32 = 10;
pub const COST_MIN: u32 = 4;
pub const COST_MAX: u32 = 31;

/// What bcrypt looks at of a password.
pub const BYTES_MAX: usize = 72;

/// A hash of a password, with salt of its own, as text in the form that Go writes.
///
/// # Errors
/// PASSWORD_TOO_LONG for more than bcrypt looks at.
pub fn hash(password: &str, cost: u32) -> Result<String, Status> {
    if password.len() > BYTES_MAX {
        return Err(error::PASSWORD_TOO_LONG);
    }
    let parts = bcrypt::hash_with_result(password, cost).map_err(|cause| Status::internal(cause.to_string()))?;
    Ok(parts.format_for_version(bcrypt::Version::TwoA))
}

/// Whether a password belongs to a hash. Of anything that is no hash it does not, and finding that takes as long as with a
/// hash of this cost: nobody learns from the time whether there is one.
pub fn matches(hash: &[u8], password: &str, cost: u32) -> bool {
    let verdict = std::str::from_utf8(hash).ok().and_then(|hash| bcrypt::verify(password, hash).ok());
    verdict.unwrap_or_else(|| {
        let _ = bcrypt::verify(password, &decoy(cost));
        false
    })
}

/// The hash of no password that anybody knows.
fn decoy(cost: u32) -> String {
    format!("$2a${cost:02}$abcdefghijklmnopqrstuu{}", "a".repeat(31))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_its_password() {
        let hashed = hash("secret", COST_MIN).unwrap();
        assert!(hashed.starts_with("$2a$04$") && hashed.len() == 60, "{hashed}");
        assert!(matches(hashed.as_bytes(), "secret", COST_MIN));
        assert!(!matches(hashed.as_bytes(), "Secret", COST_MIN));
        assert_ne!(hash("secret", COST_MIN).unwrap(), hashed, "each has salt of its own");
        assert!(matches(hash("", COST_MIN).unwrap().as_bytes(), "", COST_MIN));
        // Made by Go's golang.org/x/crypto/bcrypt.
        let of_go = b"$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga";
        assert!(matches(of_go, "allmine", COST_MIN));
    }

    #[test]
    fn only_what_bcrypt_looks_at_can_be_a_password() {
        let longest = "x".repeat(BYTES_MAX);
        let hashed = hash(&longest, COST_MIN).unwrap();
        assert_eq!(hash(&format!("{longest}x"), COST_MIN), Err(error::PASSWORD_TOO_LONG));
        // Go compares no further either.
        assert!(matches(hashed.as_bytes(), &format!("{longest}x"), COST_MIN));
    }

    #[test]
    fn the_decoy_is_a_hash_of_the_cost_asked_for() {
        for cost in [COST_MIN, 5, COST_DEFAULT] {
            let parts: bcrypt::HashParts = decoy(cost).parse().unwrap();
            assert_eq!(parts.get_cost(), cost);
            assert_eq!(bcrypt::verify("x", &decoy(COST_MIN)).ok(), Some(false), "it is computed, not refused");
        }
        assert!(!matches(b"", "", COST_MIN));
        assert!(!matches(b"\xff", "x", COST_MIN));
    }
}
