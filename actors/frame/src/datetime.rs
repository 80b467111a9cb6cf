//! Dates and times as seconds since 1970-01-01T00:00:00Z, and their parts: the arithmetic is our own, so that a
//! part is the same wherever a row is encoded. Without an offset a text is taken as UTC.

use kernels::cpu::math::cos_sin_turns;
use messages::plan::DatePart;

const DAY: f64 = 86_400.0;
/// Beyond are no years that anybody means.
const LATEST: f64 = 1e13;

/// The seconds of ISO 8601 texts (with or without time and offset), of `2024/05/31`, `31.05.2024` and `20240531`.
pub fn parse(text: &str) -> Option<f64> {
    let text = text.trim();
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.as_second() as f64 + f64::from(at.subsec_nanosecond()) / 1e9);
    }
    let iso = as_iso(text)?;
    let civil: jiff::civil::DateTime = iso.parse().ok().or_else(|| {
        let date: jiff::civil::Date = iso.parse().ok()?;
        Some(date.to_datetime(jiff::civil::Time::midnight()))
    })?;
    let date = civil.date();
    let days = days_of(i64::from(date.year()), i64::from(date.month()), i64::from(date.day()));
    let time = civil.time();
    let seconds = i64::from(time.hour()) * 3_600 + i64::from(time.minute()) * 60 + i64::from(time.second());
    Some(days as f64 * DAY + seconds as f64 + f64::from(time.subsec_nanosecond()) / 1e9)
}

/// The same date with its year first and hyphens.
fn as_iso(text: &str) -> Option<String> {
    let (date, rest) = match text.find([' ', 'T', 't']) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    if !date.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'/' | b'.')) {
        return None;
    }
    let date = match date.split(['-', '/', '.']).collect::<Vec<_>>()[..] {
        [day, month, year] if date.contains('.') && year.len() == 4 => format!("{year}-{month:0>2}-{day:0>2}"),
        [year, month, day] if year.len() == 4 => format!("{year}-{month:0>2}-{day:0>2}"),
        [all] if all.len() == 8 => format!("{}-{}-{}", &all[..4], &all[4..6], &all[6..]),
        _ => return None,
    };
    Some(format!("{date}{rest}"))
}

/// Days since 1970-01-01 of a day of the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible
/// low-level date algorithms").
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a number of days since 1970-01-01: the inverse.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let place = (5 * day_of_year + 2) / 153;
    let month = if place < 10 { place + 3 } else { place - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * place + 2) / 5 + 1)
}

/// As ISO 8601, to the second, in UTC.
pub fn text(seconds: f64) -> String {
    if seconds.is_nan() || seconds.abs() > LATEST {
        return seconds.to_string();
    }
    let day = (seconds / DAY).floor();
    let (year, month, day_of_month) = date_of(day as i64);
    let of_day = (seconds - day * DAY) as i64;
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The values of a part, one or two; NaN where the time is missing. `reference` is in seconds.
pub fn part(seconds: f64, part: DatePart, reference: f64) -> (f64, f64) {
    if seconds.is_nan() || seconds.abs() > LATEST {
        return (f64::NAN, f64::NAN);
    }
    let day = (seconds / DAY).floor();
    let (year, month, day_of_month) = date_of(day as i64);
    let weekday = (day as i64 + 3).rem_euclid(7);
    let hour = ((seconds - day * DAY) / 3_600.0).floor().clamp(0.0, 23.0);
    let turn = |turns: f64| {
        let (cos, sin) = cos_sin_turns(turns);
        (sin, cos)
    };
    match part {
        DatePart::Year => (year as f64, f64::NAN),
        DatePart::Month => (month as f64, f64::NAN),
        DatePart::Day => (day_of_month as f64, f64::NAN),
        DatePart::Weekday => (weekday as f64, f64::NAN),
        DatePart::Hour => (hour, f64::NAN),
        DatePart::IsWeekend => (f64::from(u8::from(weekday >= 5)), f64::NAN),
        DatePart::MonthCyclic => turn((month - 1) as f64 / 12.0),
        DatePart::WeekdayCyclic => turn(weekday as f64 / 7.0),
        DatePart::HourCyclic => turn(hour / 24.0),
        DatePart::DaysSince => ((seconds - reference) / DAY, f64::NAN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_dates() {
        for (text, expected) in [
            ("1970-01-01", Some(0.0)),
            ("1970-01-02T00:00:00Z", Some(86_400.0)),
            ("1970-01-01T02:00:00+02:00", Some(0.0)),
            ("1970-01-01 00:01", Some(60.0)),
            ("1970/1/2 00:00:01.5", Some(86_401.5)),
            ("02.01.1970", Some(86_400.0)),
            ("19700102", Some(86_400.0)),
            ("2024-02-29", Some(1_709_164_800.0)),
            ("1969-12-31", Some(-86_400.0)),
            ("2023-02-29", None),
            ("5/31/2024", None),
            ("yesterday", None),
            ("", None),
            ("12", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn days_come_back() {
        for days in (-800_000..800_000).step_by(37) {
            let (year, month, day) = date_of(days);
            assert_eq!(days_of(year, month, day), days, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn parts_by_the_calendar() {
        // A Saturday.
        let at = parse("2024-06-01T17:45:00Z").expect("a time");
        let of = |which| part(at, which, parse("2024-05-31").expect("a day"));
        for (which, expected) in [
            (DatePart::Year, 2024.0),
            (DatePart::Month, 6.0),
            (DatePart::Day, 1.0),
            (DatePart::Weekday, 5.0),
            (DatePart::Hour, 17.0),
            (DatePart::IsWeekend, 1.0),
            (DatePart::DaysSince, 1.0 + 17.75 / 24.0),
        ] {
            assert!((of(which).0 - expected).abs() < 1e-12, "{which:?}");
        }
        let (sin, cos) = of(DatePart::MonthCyclic);
        assert!((sin - 0.5).abs() < 1e-15 && (cos + 0.75f64.sqrt()).abs() < 1e-15, "{sin} {cos}");
        assert!(part(f64::NAN, DatePart::Year, 0.0).0.is_nan());
        assert_eq!(text(at), "2024-06-01T17:45:00Z");
    }
}
