//! Dates and times as data have them: ISO 8601 and its common relatives, to milliseconds since the epoch.

/// What a text says of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Since 1970-01-01 00:00, in UTC where an offset is given, else by the clock that the text does not name.
    pub ms: i64,
    /// Minutes east of Greenwich, where the text says so; `Z` is 0.
    pub offset_minutes: Option<i32>,
    /// Whether the text has a time of the day.
    pub has_time: bool,
}

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// `2021-01-25`, `2021/01/25`, with `T` or a blank and `10:30[:15[.5]]`, and with `Z` or `+01:00` behind. None for
/// anything else, and for days that no calendar has.
pub fn parse(text: &str) -> Option<Moment> {
    let bytes = text.as_bytes();
    if bytes.len() < 8 || bytes.len() > 40 || !bytes.is_ascii() {
        return None;
    }
    let mut at = 0;
    let year = digits(bytes, &mut at, 4, 4)?;
    let separator = *bytes.get(at)?;
    if !matches!(separator, b'-' | b'/') {
        return None;
    }
    at += 1;
    let month = digits(bytes, &mut at, 1, 2)?;
    if bytes.get(at) != Some(&separator) {
        return None;
    }
    at += 1;
    let day = digits(bytes, &mut at, 1, 2)?;
    let days = days_from_civil(year, month, day)?;
    let mut moment = Moment { ms: days * DAY_MS, offset_minutes: None, has_time: false };
    match bytes.get(at) {
        None => return Some(moment),
        Some(b'T' | b't' | b' ') => at += 1,
        Some(_) => return None,
    }
    moment.has_time = true;
    moment.ms += time_of_day(bytes, &mut at)?;
    if at < bytes.len() {
        let offset = offset(&bytes[at..])?;
        moment.offset_minutes = Some(offset);
        moment.ms -= i64::from(offset) * 60_000;
    }
    Some(moment)
}

/// From `least` to `most` decimal digits.
fn digits(bytes: &[u8], at: &mut usize, least: usize, most: usize) -> Option<i64> {
    let count = bytes[*at..].iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
    if count < least {
        return None;
    }
    let number = bytes[*at..*at + count].iter().fold(0, |number, byte| number * 10 + i64::from(byte - b'0'));
    *at += count;
    Some(number)
}

fn time_of_day(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let hour = digits(bytes, at, 1, 2)?;
    if bytes.get(*at) != Some(&b':') {
        return None;
    }
    *at += 1;
    let minute = digits(bytes, at, 2, 2)?;
    let (mut second, mut ms) = (0, 0);
    if bytes.get(*at) == Some(&b':') {
        *at += 1;
        second = digits(bytes, at, 2, 2)?;
        if matches!(bytes.get(*at), Some(b'.' | b',')) {
            *at += 1;
            let from = *at;
            digits(bytes, at, 1, 9)?;
            let thousandths = bytes[from..*at].iter().chain(b"00").take(3);
            ms = thousandths.fold(0, |number, byte| number * 10 + i64::from(byte - b'0'));
        }
    }
    // 60: a leap second.
    (hour < 24 && minute < 60 && second <= 60).then_some(((hour * 60 + minute) * 60 + second) * 1000 + ms)
}

fn offset(bytes: &[u8]) -> Option<i32> {
    let bytes = if bytes.first() == Some(&b' ') { &bytes[1..] } else { bytes };
    match bytes {
        b"Z" | b"z" | b"UTC" => Some(0),
        [sign @ (b'+' | b'-'), rest @ ..] => {
            let mut at = 0;
            let hours = digits(rest, &mut at, 2, 2)?;
            if rest.get(at) == Some(&b':') {
                at += 1;
            }
            let minutes = if at < rest.len() { digits(rest, &mut at, 2, 2)? } else { 0 };
            if at != rest.len() || hours > 18 || minutes > 59 {
                return None;
            }
            let all = (hours * 60 + minutes) as i32;
            Some(if *sign == b'-' { -all } else { all })
        }
        _ => None,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || day < 1 || day > days_of_month(year, month) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The moment as a text, without a time where it is midnight.
pub fn shown(ms: i64) -> String {
    let text = messages::envelope::rfc3339(u64::try_from(ms).unwrap_or(0));
    if ms < 0 {
        return format!("{ms} ms before 1970");
    }
    let text = text.trim_end_matches('Z').trim_end_matches(".000");
    text.strip_suffix("T00:00:00").unwrap_or(text).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        let (day, time) = (DAY_MS, 1000);
        for (text, expected) in [
            ("1970-01-01", Some(0)),
            ("2000-02-29", Some(11_016 * day)),
            ("2100-02-28", Some(47_540 * day)),
            ("1969-12-31", Some(-day)),
            ("2021/1/5", Some(18_632 * day)),
            ("2021-01-05 00:00:15", Some(18_632 * day + 15 * time)),
            ("2021-01-05T01:02:03.25Z", Some(18_632 * day + 3_723 * time + 250)),
            ("2021-01-05T01:00+02:00", Some(18_632 * day - 3_600 * time)),
            ("2021-01-05 01:00:00 -0530", Some(18_632 * day + 23_400 * time)),
            ("2100-02-29", None),
            ("2021-13-01", None),
            ("2021-00-10", None),
            ("2021-04-31", None),
            ("2021-01-05 24:00", None),
            ("2021-01-05 10", None),
            ("2021-01/05", None),
            ("21-01-05", None),
            ("2021-01-05x", None),
            ("20210105", None),
            ("", None),
        ] {
            assert_eq!(parse(text).map(|moment| moment.ms), expected, "{text}");
        }
        assert_eq!(parse("2021-01-05T01:00+02:00").and_then(|moment| moment.offset_minutes), Some(120));
        assert_eq!(shown(18_632 * day), "2021-01-05");
        assert_eq!(shown(18_632 * day + 15 * time), "2021-01-05 00:00:15");
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut expected = days_from_civil(1800, 1, 1).expect("a day");
        for year in 1800..2200 {
            for month in 1..=12 {
                for day in 1..=days_of_month(year, month) {
                    assert_eq!(days_from_civil(year, month, day), Some(expected), "{year}-{month}-{day}");
                    expected += 1;
                }
            }
        }
    }
}
