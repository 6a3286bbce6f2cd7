//! The `WWW-Authenticate` header: what a registry wants to see before it answers.

/// The most of a header that is looked at.
const MAX_LEN: usize = 16 << 10;

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// `bearer`, `basic`, …, in lower case.
    pub(crate) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter by its lower-case name; the first one counts.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the value of one header, which may hold several challenges. What makes no sense is passed over.
pub(crate) fn parse(value: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = value.get(..MAX_LEN).unwrap_or(value);
    if value.len() > MAX_LEN && rest.len() == value.len() {
        // The cut would split a character; nobody honest gets here.
        return challenges;
    }
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            let mut characters = rest.chars();
            if characters.next().is_none() {
                return challenges;
            }
            rest = characters.as_str();
            continue;
        }
        match after.trim_start().strip_prefix('=') {
            Some(text) => {
                let (parameter, after) = parameter_value(text.trim_start());
                if let Some(challenge) = challenges.last_mut() {
                    challenge.parameters.push((word.to_ascii_lowercase(), parameter));
                }
                rest = after;
            }
            None => {
                challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        return (word.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    (value, characters.as_str())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(value: &str, expected: Expect) {
        let lines: Vec<String> =
            parse(value).iter().map(|c| format!("{} {:?}", c.scheme, c.parameters)).collect();
        expected.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn reads_what_registries_send() {
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull,push""#,
            expect![[
                r#"bearer [("realm", "https://auth.docker.io/token"), ("service", "registry.docker.io"), ("scope", "repository:library/busybox:pull,push")]"#
            ]],
        );
        check(r#"Basic realm="a \"b\"""#, expect![[r#"basic [("realm", "a \"b\"")]"#]]);
        check(
            r#"Negotiate, Basic realm=x, bearer Realm = "y" , error=invalid_token"#,
            expect![[r#"
                negotiate []
                basic [("realm", "x")]
                bearer [("realm", "y"), ("error", "invalid_token")]"#]],
        );
        check("realm=\"no scheme\", ;;;", expect![[""]]);
        check("Bearer realm=\"unterminated", expect![[r#"bearer [("realm", "unterminated")]"#]]);
    }

    proptest! {
        #[test]
        fn any_text_ends_without_a_panic(text in ".*") {
            let _ = parse(&text);
        }

        #[test]
        fn almost_challenges_end_without_a_panic(text in r#"((Bearer|Basic|realm|scope|=|,|"|\\| |é|x){0,40})"#) {
            let _ = parse(&text);
        }

        #[test]
        fn quoted_values_round_trip(value in "[^\\x00-\\x1f]{0,64}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let parsed = parse(&format!("Bearer realm=\"{quoted}\", service=s"));
            prop_assert_eq!(parsed[0].get("realm"), Some(value.as_str()));
            prop_assert_eq!(parsed[0].get("service"), Some("s"));
        }
    }
}
