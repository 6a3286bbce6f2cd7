//! Sparse files: maps of which parts of a file are stored, in the four forms that GNU tar has had.

use super::header::{Block, number};
use super::pax::{SparseKeys, decimal};

const BAD: &str = "its sparse map is malformed";

/// A part of a file that is stored: where it belongs and how long it is.
pub(crate) type Part = (u64, u64);

/// The parts in some 24-byte slots of a block, up to the first empty one.
pub(crate) fn old_parts(block: &Block, start: usize, slots: usize) -> Result<Vec<Part>, &'static str> {
    let mut parts = Vec::new();
    for slot in 0..slots {
        let field = &block[start + slot * 24..start + (slot + 1) * 24];
        if field[0] == 0 {
            break;
        }
        parts.push((unsigned(number(&field[..12])?)?, unsigned(number(&field[12..])?)?));
    }
    Ok(parts)
}

/// How an extended header stores the map, if it says that there is one.
pub(crate) enum PaxForm {
    /// Not a sparse file.
    None,
    /// In the header, both 0.0 and 0.1.
    InHeader(Vec<Part>),
    /// At the start of the data, 1.0.
    InData,
}

/// What an extended header says.
pub(crate) fn pax_form(keys: &SparseKeys) -> Result<PaxForm, &'static str> {
    let version = (keys.major.as_deref(), keys.minor.as_deref());
    match version {
        (Some(b"1"), Some(b"0")) => Ok(PaxForm::InData),
        (Some(b"0"), Some(b"0" | b"1")) | (None, None) => {
            let numbers: Vec<i64> = if let Some(map) = &keys.map {
                let numbers = map.split(|byte| *byte == b',').map(|text| decimal(text)?.ok_or(BAD));
                numbers.collect::<Result<_, _>>()?
            } else if keys.pairs.is_empty() {
                return Ok(PaxForm::None);
            } else {
                keys.pairs.clone()
            };
            pairs(&numbers).map(PaxForm::InHeader)
        }
        _ => Ok(PaxForm::None),
    }
}

/// Offsets and lengths in turn.
pub(crate) fn pairs(numbers: &[i64]) -> Result<Vec<Part>, &'static str> {
    if !numbers.len().is_multiple_of(2) {
        return Err(BAD);
    }
    numbers.chunks_exact(2).map(|pair| Ok((unsigned(pair[0])?, unsigned(pair[1])?))).collect()
}

/// Checks that the parts lie in order within the file, and that exactly they are stored.
pub(crate) fn validate(parts: &[Part], real_size: u64, stored: u64) -> Result<(), &'static str> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for (offset, length) in parts {
        let part_end = offset.checked_add(*length).ok_or(BAD)?;
        if *offset < end || part_end > real_size {
            return Err(BAD);
        }
        end = part_end;
        sum += length;
    }
    if sum == stored { Ok(()) } else { Err("its sparse map does not fit its size") }
}

fn unsigned(value: i64) -> Result<u64, &'static str> {
    u64::try_from(value).map_err(|_| BAD)
}
