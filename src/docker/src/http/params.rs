//! Parameters of a request: of its query and, if it has one, of its form.

use super::error::{ApiError, Result};

/// Names and values in the order they were sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads `a=b&c=d`. What is no UTF-8 is replaced, as browsers do.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// Adds those of a form; the query's come first.
    pub(crate) fn extend(&mut self, form: Self) {
        self.0.extend(form.0);
    }

    /// The first value of a name, if it was sent.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a name; empty if it was not sent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    /// All values of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a name has a value other than those that mean no.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// As [`Params::flag`], with what it is when it was not sent.
    pub(crate) fn flag_or(&self, name: &str, otherwise: bool) -> bool {
        self.find(name).map_or(otherwise, |value| {
            let value = value.trim();
            !["", "0", "no", "false", "none"].iter().any(|no| value.eq_ignore_ascii_case(no))
        })
    }

    /// A number, if it was sent.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::bad(format!("invalid value for {name}: {text:?} is not a number"))),
        }
    }
}

/// Undoes the percent encoding; with `plus`, a plus sign is a space.
pub(crate) fn decode(text: &str, plus: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |rest: &std::str::Bytes<'_>| {
            let mut ahead = rest.clone();
            let high = char::from(ahead.next()?).to_digit(16)?;
            let low = char::from(ahead.next()?).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        };
        match byte {
            b'%' => match hex(&rest) {
                Some(decoded) => {
                    bytes.push(decoded);
                    rest.nth(1);
                }
                None => bytes.push(b'%'),
            },
            b'+' if plus => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let params = Params::parse("a=1&b=x%20y+z&c&a=2&d=%e4%b8%ad%zz%4");
        assert_eq!(params.get("a"), "1");
        assert_eq!(params.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((params.get("b"), params.find("c"), params.find("e")), ("x y z", Some(""), None));
        assert_eq!(params.get("d"), "中%zz%4");
    }

    #[test]
    fn some_words_mean_no() {
        for no in ["", "0", "no", "False", "NONE"] {
            assert!(!Params::parse(&format!("x={no}")).flag("x"), "{no}");
        }
        for yes in ["1", "true", "yes", "anything", "-1"] {
            assert!(Params::parse(&format!("x={yes}")).flag("x"), "{yes}");
        }
        assert!(Params::default().flag_or("x", true));
    }

    #[test]
    fn numbers_are_numbers() {
        let params = Params::parse("a=5&b=x&c=");
        assert_eq!(params.number::<u32>("a").unwrap(), Some(5));
        assert!(params.number::<u32>("b").is_err());
        assert_eq!(params.number::<u32>("c").unwrap(), None);
    }
}
