//! Seconds since 1970 as a date of the Gregorian calendar, and back.

const SECONDS_A_DAY: u64 = 86_400;
/// Days from 0000-03-01, where years begin here, to 1970-01-01.
const DAYS_TO_1970: u64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const DAYS_OF_ERA: u64 = 146_097;

/// A date and a time of day. Fields may be out of range while a guest sets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: u16,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

impl Date {
    /// The date `seconds` after the beginning of 1970.
    pub(super) fn at(seconds: u64) -> Self {
        let days = seconds / SECONDS_A_DAY + DAYS_TO_1970;
        let (era, day) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
        // Leap days are the last of their year, which begins in March.
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let in_day = seconds % SECONDS_A_DAY;
        Self {
            year: (era * 400 + year + u64::from(month >= 10)) as u16,
            month: ((month + 2) % 12 + 1) as u8,
            day: (day - (153 * month + 2) / 5 + 1) as u8,
            hour: (in_day / 3_600) as u8,
            minute: (in_day / 60 % 60) as u8,
            second: (in_day % 60) as u8,
        }
    }

    /// Seconds since 1970, 0 for what lies before; what is out of range carries over.
    pub(super) fn seconds(self) -> u64 {
        let days = self.days().saturating_sub(DAYS_TO_1970);
        let minutes = u64::from(self.hour) * 60 + u64::from(self.minute);
        days * SECONDS_A_DAY + minutes * 60 + u64::from(self.second)
    }

    /// The day of the week: 1 for Sunday.
    pub(super) fn weekday(self) -> u8 {
        ((self.days() + 3) % 7 + 1) as u8
    }

    /// Days since 0000-03-01.
    fn days(self) -> u64 {
        let month = u64::from(self.month.max(1)) - 1;
        let months = u64::from(self.year) * 12 + month;
        // January and February belong to the year before.
        let (year, month) = (months.saturating_sub(2) / 12, (months + 10) % 12);
        let leap_days = year / 4 - year / 100 + year / 400;
        365 * year + leap_days + (153 * month + 2) / 5 + u64::from(self.day.max(1)) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One day later, by the rules as everyone knows them.
    fn next(date: Date) -> Date {
        let leap = date.year % 4 == 0 && (date.year % 100 != 0 || date.year % 400 == 0);
        let length = match date.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        match (date.day == length, date.month) {
            (false, _) => Date { day: date.day + 1, ..date },
            (true, 12) => Date { year: date.year + 1, month: 1, day: 1, ..date },
            (true, month) => Date { month: month + 1, day: 1, ..date },
        }
    }

    #[test]
    fn four_hundred_years_of_days_come_one_after_the_other() {
        let mut expected = Date { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
        for day in 0..DAYS_OF_ERA {
            assert_eq!(Date::at(day * SECONDS_A_DAY), expected);
            assert_eq!(expected.seconds(), day * SECONDS_A_DAY);
            assert_eq!(
                u64::from(expected.weekday()),
                (day + 4) % 7 + 1,
                "1970 began on a Thursday"
            );
            expected = next(expected);
        }
    }

    #[test]
    fn seconds_of_a_day_come_back() {
        for second in (0..SECONDS_A_DAY).step_by(7) {
            assert_eq!(Date::at(1_000_000_000 + second).seconds(), 1_000_000_000 + second);
        }
    }

    #[test]
    fn fields_out_of_range_carry_over_and_nothing_overflows() {
        let date = Date { year: 2023, month: 14, day: 31, hour: 25, minute: 61, second: 61 };
        let carried = Date { year: 2024, month: 3, day: 3, hour: 2, minute: 2, second: 1 };
        assert_eq!(Date::at(date.seconds()), carried);
        let extreme = Date { year: 0, month: 0, day: 0, hour: 255, minute: 255, second: 255 };
        assert!(extreme.seconds() < 255 * 3_600 + 256 * 61 + SECONDS_A_DAY);
        let _ = (Date::at(u64::MAX).seconds(), extreme.weekday());
    }
}
