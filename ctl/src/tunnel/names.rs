//! Where names of hosts led last: for when nobody can be asked, as behind a kill switch whose tunnel is dead.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

/// Names and ports, and the addresses that were found for them last.
#[derive(Default)]
pub struct Names(HashMap<(String, u16), Vec<SocketAddr>>);

impl Names {
    /// What was found for a name; where that is nothing, what was found before.
    ///
    /// # Errors
    ///
    /// Why nothing was found, now and before.
    pub fn or_last(
        &mut self,
        host: &str,
        port: u16,
        found: io::Result<Vec<SocketAddr>>,
    ) -> io::Result<Vec<SocketAddr>> {
        let name = (host.to_owned(), port);
        match found {
            Ok(found) if !found.is_empty() => {
                self.0.insert(name, found.clone());
                Ok(found)
            }
            nothing => self.0.get(&name).cloned().map_or(nothing, Ok),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_last_is_kept_by_name_and_port() {
        let mut names = Names::default();
        let blocked = || Err(io::ErrorKind::TimedOut.into());
        let [first, second, third] =
            ["192.0.2.1:7", "[2001:db8::1]:7", "192.0.2.9:7"].map(|text| text.parse().unwrap());
        assert!(names.or_last("a", 7, blocked()).is_err());
        assert_eq!(names.or_last("a", 7, Ok(vec![])).unwrap(), []);
        assert_eq!(names.or_last("a", 7, Ok(vec![first, second])).unwrap(), [first, second]);
        for nothing in [blocked(), Ok(vec![])] {
            assert_eq!(names.or_last("a", 7, nothing).unwrap(), [first, second]);
        }
        assert!(names.or_last("a", 8, blocked()).is_err());
        assert!(names.or_last("b", 7, blocked()).is_err());
        assert_eq!(names.or_last("a", 7, Ok(vec![third])).unwrap(), [third]);
        assert_eq!(names.or_last("a", 7, blocked()).unwrap(), [third]);
    }
}
