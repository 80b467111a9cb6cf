//! Dates and times as texts, to seconds since the epoch. The rules that decide what a text means without a zone are
//! stated here and nowhere else: a date without a clock is its midnight, a text without an offset is in the zone that
//! the plan names, else in UTC; an hour that a zone has twice is the first one, one that it skips lies behind the gap.
//! Zones come with the program, so that no result depends on a machine's.

use std::collections::BTreeMap;

use jiff::civil::{Date, DateTime, Time};
use jiff::fmt::strtime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use super::At;

const SECOND_MICROS: f64 = 1e6;

/// How the texts of one column are read.
#[derive(Debug, Clone, Default)]
pub struct DateReader {
    format: Option<String>,
    /// Of texts without an offset, where the plan names one.
    zone: Option<TimeZone>,
}

/// What a text says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Seconds since the epoch, exact to the microsecond in any year with four digits.
    pub seconds: f64,
    /// Seconds east of Greenwich, where the text names an offset.
    pub offset: Option<i32>,
    pub fold: Fold,
}

/// Whether the zone of the plan has this hour once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    Once,
    /// As clocks are set back.
    Twice,
    /// As clocks are set forward.
    Never,
}

impl DateReader {
    /// `Err` says what is wrong with the zone.
    pub fn new(format: Option<String>, zone: Option<&str>) -> Result<Self, String> {
        let zone = zone.map(|name| {
            TimeZone::get(name).map_err(|_| format!("no zone {name:?}: expected an IANA name such as Europe/Berlin"))
        });
        Ok(Self { format, zone: zone.transpose()? })
    }

    pub fn has_format(&self) -> bool {
        self.format.is_some()
    }

    pub fn has_zone(&self) -> bool {
        self.zone.is_some()
    }

    /// What is expected of a text.
    pub fn expected(&self) -> String {
        match &self.format {
            Some(format) => format!("a date as {format}"),
            None => "a date or time in ISO 8601, such as 2024-05-31 or 2024-05-31T23:59:00+02:00".into(),
        }
    }

    /// None where the text is no date.
    pub fn read(&self, text: &str) -> Option<Moment> {
        let (local, offset) = match &self.format {
            Some(format) => by_format(format, text)?,
            None => iso(text)?,
        };
        if let Some(offset) = offset {
            return at(local, offset, Fold::Once, true);
        }
        let Some(zone) = &self.zone else { return at(local, Offset::UTC, Fold::Once, false) };
        let found = zone.to_ambiguous_timestamp(local);
        let fold = match found.offset() {
            AmbiguousOffset::Unambiguous { .. } => Fold::Once,
            AmbiguousOffset::Gap { .. } => Fold::Never,
            AmbiguousOffset::Fold { .. } => Fold::Twice,
        };
        let time = found.compatible().ok()?;
        Some(Moment { seconds: time.as_microsecond() as f64 / SECOND_MICROS, offset: None, fold })
    }
}

fn at(local: DateTime, offset: Offset, fold: Fold, named: bool) -> Option<Moment> {
    let time = offset.to_timestamp(local).ok()?;
    let seconds = time.as_microsecond() as f64 / SECOND_MICROS;
    Some(Moment { seconds, offset: named.then(|| offset.seconds()), fold })
}

/// A declared format. A date without a clock is its midnight.
fn by_format(format: &str, text: &str) -> Option<(DateTime, Option<Offset>)> {
    let parsed = strtime::parse(format, text.trim()).ok()?;
    if let Some(time) = parsed.timestamp() {
        return Some((Offset::UTC.to_datetime(time), Some(Offset::UTC)));
    }
    let date = parsed.to_date().ok()?;
    let hour = parsed.hour().is_some();
    let time = if hour { parsed.to_time().ok()? } else { Time::midnight() };
    Some((DateTime::from_parts(date, time), parsed.offset()))
}

/// ISO 8601 and what is usually written for it: `-` or `/` between year, month and day; `T` or a blank before the
/// clock; seconds and their fraction may be missing; `Z`, `+02`, `+0200`, `+02:00`.
fn iso(text: &str) -> Option<(DateTime, Option<Offset>)> {
    let bytes = text.trim().as_bytes();
    let separator = *bytes.get(4).filter(|b| matches!(b, b'-' | b'/'))?;
    if bytes.get(7) != Some(&separator) {
        return None;
    }
    let (year, month, day) = (digits(bytes, 0, 4)?, digits(bytes, 5, 2)?, digits(bytes, 8, 2)?);
    let date = Date::new(year as i16, month as i8, day as i8).ok()?;
    if bytes.len() == 10 {
        return Some((date.to_datetime(Time::midnight()), None));
    }
    if !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let (hour, minute) = (digits(bytes, 11, 2)?, digits(bytes, 14, 2)?);
    if bytes.get(13) != Some(&b':') {
        return None;
    }
    let (mut rest, mut second, mut nano) = (&bytes[16..], 0, 0);
    if rest.first() == Some(&b':') {
        second = digits(rest, 1, 2)?;
        rest = &rest[3..];
        if matches!(rest.first(), Some(b'.' | b',')) {
            let count = rest[1..].iter().take_while(|b| b.is_ascii_digit()).count();
            if count == 0 {
                return None;
            }
            let shown = count.min(9);
            nano = digits(rest, 1, shown)? * 10i32.pow(9 - shown as u32);
            rest = &rest[1 + count..];
        }
    }
    // A leap second is the last one of its minute.
    let second = second.min(if second == 60 { 59 } else { second });
    let time = Time::new(hour as i8, minute as i8, second as i8, nano).ok()?;
    Some((DateTime::from_parts(date, time), offset(rest).ok()?))
}

/// None where there is no offset, an error where what stands there is none.
fn offset(text: &[u8]) -> Result<Option<Offset>, NoOffset> {
    let text = text.strip_prefix(b" ").unwrap_or(text);
    let sign = match text {
        b"" => return Ok(None),
        b"Z" | b"z" | b"UTC" => return Ok(Some(Offset::UTC)),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return Err(NoOffset),
    };
    let (hours, minutes) = match text.len() {
        3 => (digits(text, 1, 2), Some(0)),
        5 => (digits(text, 1, 2), digits(text, 3, 2)),
        6 if text[3] == b':' => (digits(text, 1, 2), digits(text, 4, 2)),
        _ => return Err(NoOffset),
    };
    let (hours, minutes) = hours.zip(minutes.filter(|minutes| *minutes < 60)).ok_or(NoOffset)?;
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).map(Some).map_err(|_| NoOffset)
}

/// What stands behind a clock is no offset.
struct NoOffset;

fn digits(bytes: &[u8], at: usize, count: usize) -> Option<i32> {
    let digits = bytes.get(at..at + count)?;
    digits.iter().try_fold(0i32, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i32::from(digit - b'0')))
}

/// What is notable of the moments of a column.
#[derive(Debug, Default)]
pub struct DateCounts {
    /// Of each offset, none being that of texts without one: how many, and the first.
    offsets: BTreeMap<Option<i32>, (u64, First)>,
    twice: (u64, Option<First>),
    never: (u64, Option<First>),
}

/// File, place and text.
type First = (usize, At, String);

impl DateCounts {
    pub fn add(&mut self, moment: Moment, count: u64, first: impl FnOnce() -> First) {
        let known = self.offsets.get_mut(&moment.offset);
        let folds = match moment.fold {
            Fold::Once => None,
            Fold::Twice => Some(&mut self.twice),
            Fold::Never => Some(&mut self.never),
        };
        match (known, folds) {
            (Some((total, _)), None) => *total += count,
            (_, folds) => {
                let first = first();
                if let Some((total, kept)) = folds {
                    *total += count;
                    kept.get_or_insert_with(|| first.clone());
                }
                self.offsets.entry(moment.offset).or_insert((0, first)).0 += count;
            }
        }
    }

    /// A column with texts with and without an offset, and no zone for the latter: where each stands first.
    pub fn mixed(&self) -> Option<(&First, &First)> {
        let (_, without) = self.offsets.get(&None)?;
        let (_, with) = self.offsets.iter().find(|(offset, _)| offset.is_some())?.1;
        Some((with, without))
    }

    /// What a user should know, in sentences.
    pub fn remarks(&self, column: &str, files: &[&str]) -> Vec<String> {
        let place = |(file, at, text): &First| format!("{text:?} in {} {at}", files[*file]);
        let mut remarks = Vec::new();
        let named: Vec<String> = self
            .offsets
            .iter()
            .filter_map(|(offset, (count, first))| {
                Some(format!("{} ({count} values, the first {})", offset_text((*offset)?), place(first)))
            })
            .collect();
        if named.len() > 1 {
            let listed = named.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
            let count = named.len();
            remarks.push(format!("column {column:?} has {count} time zones, all turned to UTC: {listed}"));
        }
        if let (count @ 1.., Some(first)) = &self.twice {
            let which = place(first);
            remarks.push(format!(
                "column {column:?}: {count} times stand twice on the clock as it is set back, the first {which}: the earlier one is taken"
            ));
        }
        if let (count @ 1.., Some(first)) = &self.never {
            let which = place(first);
            remarks.push(format!(
                "column {column:?}: {count} times are skipped by the clock as it is set forward, the first {which}: they are taken as after the gap"
            ));
        }
        remarks
    }
}

fn offset_text(seconds: i32) -> String {
    let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(reader: &DateReader, text: &str) -> Option<f64> {
        reader.read(text).map(|moment| moment.seconds)
    }

    #[test]
    fn iso_texts_are_moments_and_others_are_none() {
        let reader = DateReader::default();
        // Seconds by GNU date.
        for (text, expected) in [
            ("1970-01-01", Some(0.0)),
            ("2024-02-29", Some(1_709_164_800.0)),
            ("2024/02/29", Some(1_709_164_800.0)),
            ("2023-02-29", None),
            ("2024-02-29 12:30", Some(1_709_209_800.0)),
            ("2024-02-29T12:30:15.25", Some(1_709_209_815.25)),
            ("2024-02-29T12:30:15Z", Some(1_709_209_815.0)),
            ("2024-02-29T12:30:15+02:00", Some(1_709_202_615.0)),
            ("2024-02-29T12:30:15-0530", Some(1_709_229_615.0)),
            ("2019-11-24 00:00:12.345678+00:00", Some(1_574_553_612.345_678)),
            ("1969-12-31T23:59:59Z", Some(-1.0)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_799.0)),
            ("2024-02-29T24:30", None),
            ("2024-02-29T12:30:15 CET", None),
            ("2024-02/29", None),
            ("29-02-2024", None),
            ("2024-2-9", None),
            ("20240229", None),
            ("2024", None),
            ("", None),
        ] {
            assert_eq!(seconds(&reader, text), expected, "{text}");
        }
    }

    #[test]
    fn declared_formats_are_read() {
        let reader = |format: &str| DateReader::new(Some(format.into()), None).expect("a zone is not named");
        assert_eq!(seconds(&reader("%y%m%d%H"), "14102101"), Some(1_413_853_200.0));
        assert_eq!(seconds(&reader("%d.%m.%Y %H:%M"), "29.02.2024 12:30"), Some(1_709_209_800.0));
        assert_eq!(seconds(&reader("%b %d, %Y"), "Feb 29, 2024"), Some(1_709_164_800.0));
        assert_eq!(seconds(&reader("%Y-%m-%dT%H:%M:%S%z"), "2024-02-29T12:30:15+0200"), Some(1_709_202_615.0));
        assert_eq!(seconds(&reader("%s"), "1709209815"), Some(1_709_209_815.0));
        assert_eq!(seconds(&reader("%d.%m.%Y"), "2024-02-29"), None);
        assert_eq!(seconds(&reader("%B %d"), "April 3"), None, "no year");
    }

    #[test]
    fn zones_have_hours_twice_and_never() {
        let berlin = DateReader::new(None, Some("Europe/Berlin")).expect("a zone");
        let read = |text: &str| berlin.read(text).expect(text);
        assert_eq!(read("2024-07-01 12:00"), Moment { seconds: 1_719_828_000.0, offset: None, fold: Fold::Once });
        // The first of the two, still in summer time: 00:30 UTC.
        assert_eq!(read("2024-10-27 02:30"), Moment { seconds: 1_729_989_000.0, offset: None, fold: Fold::Twice });
        // 02:30 is skipped: 03:30 in summer time, 01:30 UTC.
        assert_eq!(read("2024-03-31 02:30"), Moment { seconds: 1_711_848_600.0, offset: None, fold: Fold::Never });
        assert_eq!(read("2024-07-01T12:00Z").offset, Some(0));
        assert!(DateReader::new(None, Some("Europe/Berlni")).is_err());
    }

    #[test]
    fn remarks_name_zones_and_hours() {
        let reader = DateReader::new(None, Some("Europe/Berlin")).expect("a zone");
        let mut counts = DateCounts::default();
        for (line, text) in ["2024-01-01T00:00Z", "2024-01-01T00:00+05:30", "2024-10-27 02:30", "2024-01-01T01:00Z"]
            .into_iter()
            .enumerate()
        {
            let first = || (0, At::Line(line as u64 + 2), text.to_owned());
            counts.add(reader.read(text).expect("a moment"), 1, first);
        }
        assert!(counts.mixed().is_some());
        assert_eq!(
            counts.remarks("t", &["a.csv"]),
            [
                "column \"t\" has 2 time zones, all turned to UTC: +00:00 (2 values, the first \"2024-01-01T00:00Z\" in a.csv line 2), \
                 +05:30 (1 values, the first \"2024-01-01T00:00+05:30\" in a.csv line 3)",
                "column \"t\": 1 times stand twice on the clock as it is set back, the first \"2024-10-27 02:30\" in a.csv line 4: the earlier one is taken",
            ]
        );
    }
}
