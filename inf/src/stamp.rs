//! Version and date of the package, which the template leaves open.

use crate::TEMPLATE;

/// A day of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// 2026
    pub year: i64,
    /// 1 to 12
    pub month: i64,
    /// 1 to 31
    pub day: i64,
}

impl Date {
    /// The day on which so many seconds have passed since 1970, in UTC.
    ///
    /// Years are counted from March on, so that a leap day is the last of its year.
    #[must_use]
    pub const fn of(seconds: u64) -> Self {
        let days = (seconds / 86_400) as i64 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        Self { year: era * 400 + year + next, month, day }
    }

    /// Reads `MM/DD/YYYY`, as `DriverVer` has it.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (month, day, year) = (parts.next()?, parts.next()?, parts.next()?);
        let lengths = [month.len(), day.len(), year.len()] == [2, 2, 4] && parts.next().is_none();
        let number = |text: &str| crate::text::number(text).map(i64::from);
        let date = Self { year: number(year)?, month: number(month)?, day: number(day)? };
        (lengths
            && (1..=12).contains(&date.month)
            && (1..=date.days_of_month()).contains(&date.day))
        .then_some(date)
    }

    const fn days_of_month(self) -> i64 {
        match self.month {
            2 if self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }
}

/// The INF of this version, dated, with the ends of lines that Windows' own have.
#[must_use]
pub fn stamped(version: &str, date: Date) -> String {
    let Date { year, month, day } = date;
    TEMPLATE
        .replace("@DATE@", &format!("{month:02}/{day:02}/{year:04}"))
        .replace("@VERSION@", &format!("{version}.0"))
        .replace('\n', "\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, year, month, day) in [
            (0, 1970, 1, 1),
            (951_782_400, 2000, 2, 29),
            (951_868_799, 2000, 2, 29),
            (951_868_800, 2000, 3, 1),
            (1_767_225_599, 2025, 12, 31),
            (4_107_542_400, 2100, 3, 1),
        ] {
            assert_eq!(Date::of(seconds), Date { year, month, day }, "{seconds}");
        }
    }

    #[test]
    fn dates_are_written_in_one_way() {
        assert_eq!(Date::read("02/29/2024"), Some(Date { year: 2024, month: 2, day: 29 }));
        for text in [
            "02/29/2025",
            "13/01/2025",
            "1/1/2025",
            "00/01/2025",
            "01/00/2025",
            "01/01/2025/1",
            "",
            "//",
        ] {
            assert_eq!(Date::read(text), None, "{text}");
        }
    }

    #[test]
    fn the_line_is_whole() {
        let inf = stamped("1.2.3", Date { year: 2026, month: 3, day: 4 });
        assert!(
            inf.contains("DriverVer   = 03/04/2026,1.2.3.0\r\n") && !inf.contains('@'),
            "{inf}"
        );
    }
}
