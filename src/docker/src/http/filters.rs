//! The `filters` parameter: which objects a list or a prune is about.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::{ApiError, Result};
use super::params::Params;

/// Values by key. Values of one key are alternatives, except of labels, which must all be there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the parameter `filters` of a request whose objects can be selected by `known` keys.
    pub(crate) fn of(params: &Params, known: &[&str]) -> Result<Self> {
        let filters = Self::parse(params.get("filters"))?;
        filters.check(known)?;
        Ok(filters)
    }

    /// Refuses keys that are not among `known` ones.
    pub(crate) fn check(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(unknown) => Err(ApiError::bad(format!("invalid filter '{unknown}'"))),
            None => Ok(()),
        }
    }

    /// Both forms: a map of lists, and the map of maps that newer clients send.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let invalid = || ApiError::bad("invalid filter");
        let map: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|_| invalid())?;
        let mut filters = BTreeMap::new();
        for (key, value) in map {
            let values = match value {
                Value::Array(list) => list
                    .into_iter()
                    .map(|one| match one {
                        Value::String(text) => Ok(text),
                        _ => Err(invalid()),
                    })
                    .collect::<Result<Vec<_>>>()?,
                Value::Object(set) => {
                    if set.values().any(|value| !value.is_boolean()) {
                        return Err(invalid());
                    }
                    set.into_iter()
                        .filter(|(_, wanted)| *wanted == Value::Bool(true))
                        .map(|(key, _)| key)
                        .collect()
                }
                Value::Null => Vec::new(),
                Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(invalid()),
            };
            filters.insert(key, values);
        }
        Ok(Self(filters))
    }

    /// The values of a key.
    pub(crate) fn get(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether a key was given with a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        !self.get(key).is_empty()
    }

    /// Whether any of a key's values fits; without any, everything does.
    pub(crate) fn any(&self, key: &str, mut fits: impl FnMut(&str) -> bool) -> bool {
        let values = self.get(key);
        values.is_empty() || values.iter().any(|value| fits(value))
    }

    /// A key whose only values are yes and no.
    pub(crate) fn truth(&self, key: &str) -> Result<Option<bool>> {
        let mut truth = None;
        for value in self.get(key) {
            let this = match value.to_ascii_lowercase().as_str() {
                "1" | "t" | "true" => true,
                "0" | "f" | "false" => false,
                _ => return Err(ApiError::bad(format!("invalid filter '{key}={value}'"))),
            };
            if truth.is_some_and(|other| other != this) {
                return Err(ApiError::bad(format!("invalid filter '{key}': both true and false")));
            }
            truth = Some(this);
        }
        Ok(truth)
    }

    /// Whether labels fit: `label` must all be there, of `label!` none, each with a value or any.
    pub(crate) fn labels<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => label(key) == Some(value),
            None => label(wanted).is_some(),
        };
        self.get("label").iter().all(has) && !self.get("label!").iter().any(has)
    }

    /// The labels of a key, taken apart.
    pub(crate) fn label_pairs(&self, key: &str) -> Vec<(String, Option<String>)> {
        let pair = |text: &String| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text.clone(), None),
        };
        self.get(key).iter().map(pair).collect()
    }

    /// Whether a name fits: exactly, or as part of it, as Docker's regular expressions mostly come to.
    pub(crate) fn name(&self, key: &str, name: &str) -> bool {
        self.any(key, |wanted| matches_name(wanted, name))
    }
}

/// Whether a pattern fits a name: `^` and `$` anchor, everything else is taken literally.
pub(crate) fn matches_name(pattern: &str, name: &str) -> bool {
    let (start, pattern) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
    let (end, pattern) = pattern.strip_suffix('$').map_or((false, pattern), |rest| (true, rest));
    // Containers are also looked for by the slash their names begin with on the wire.
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    match (start, end) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_mean_the_same() {
        let old = Filters::parse(r#"{"label":["a=b","c"],"name":[]}"#).unwrap();
        let new = Filters::parse(r#"{"label":{"a=b":true,"c":true,"d":false},"name":{}}"#).unwrap();
        assert_eq!(old, new);
        assert!(old.has("label") && !old.has("name"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["x", "[]", r#"{"a":"b"}"#, r#"{"a":[1]}"#, r#"{"a":{"b":1}}"#] {
            assert_eq!(Filters::parse(text).unwrap_err().message(), "invalid filter", "{text}");
        }
        let params = Params::parse("filters=%7B%22bogus%22%3A%5B%22x%22%5D%7D");
        assert_eq!(Filters::of(&params, &["label"]).unwrap_err().message(), "invalid filter 'bogus'");
    }

    #[test]
    fn labels_are_all_needed() {
        let labels = |key: &str| match key {
            "a" => Some("b"),
            "c" => Some(""),
            _ => None,
        };
        let fits = |text| Filters::parse(text).unwrap().labels(labels);
        assert!(fits(r#"{"label":["a=b","c"]}"#));
        assert!(!fits(r#"{"label":["a=b","d"]}"#));
        assert!(!fits(r#"{"label!":["a"]}"#) && fits(r#"{"label!":["a=x"]}"#));
    }

    #[test]
    fn truths_are_checked() {
        let truth = |text| Filters::parse(text).unwrap().truth("dangling");
        assert_eq!(truth(r#"{"dangling":["true"]}"#).unwrap(), Some(true));
        assert_eq!(truth("{}").unwrap(), None);
        assert!(truth(r#"{"dangling":["perhaps"]}"#).is_err() && truth(r#"{"dangling":["1","0"]}"#).is_err());
    }

    #[test]
    fn names_are_anchored_where_they_say_so() {
        assert!(matches_name("web", "my-web-1") && matches_name("^/web$", "web"));
        assert!(
            !matches_name("^web$", "web-1") && matches_name("^web", "web-1") && !matches_name("b$", "web-1")
        );
    }
}
