//! Lists of numbers, as the kernel writes sets of processors and memory nodes, as bit masks.

use crate::PlanError;

/// More than any kernel is built for.
const LARGEST: usize = 8191;

/// A mask of whole machine words from a list like `0-3,7`. `what` names the member in an error.
pub(crate) fn mask(what: &str, list: &str) -> Result<Vec<u8>, PlanError> {
    let wrong = || PlanError::Invalid(format!("{what}: {list:?} is no list of numbers like 0-3,7"));
    let number = |text: &str| -> Result<usize, PlanError> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().filter(|n| *n <= LARGEST).ok_or_else(wrong)
    };
    let mut bytes = Vec::new();
    for part in list.split(',') {
        let (first, last) = match part.trim().split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part.trim())?, number(part.trim())?),
        };
        if first > last {
            return Err(wrong());
        }
        let words = last / 64 + 1;
        if bytes.len() < words * 8 {
            bytes.resize(words * 8, 0);
        }
        for bit in first..=last {
            // The kernel reads words of 64 bits, whatever their byte order.
            let byte =
                if cfg!(target_endian = "big") { (bit / 64) * 8 + 7 - (bit % 64) / 8 } else { bit / 8 };
            if let Some(byte) = bytes.get_mut(byte) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_masks() {
        assert_eq!(mask("x", "0").unwrap(), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(mask("x", "0-3,7").unwrap(), [0x8f, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(mask("x", "1, 9").unwrap(), [2, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(mask("x", "64").unwrap().len(), 16);
        for list in ["", ",", "3-1", "a", "-1", "1-", "0x1", "99999999", "1,,2"] {
            assert!(mask("x", list).unwrap_err().to_string().starts_with("x: "), "{list}");
        }
    }
}
