//! Delta debugging: the shortest operation list that still fails.

/// Blanks out chunks of `items` with `blank`, halving the chunk, as long as `fails` still
/// holds; then takes the blanks out. At most `budget` runs for each of the two.
///
/// After Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002).
/// Blanking comes first because it keeps the numbers of the steps.
pub fn shrink<T: Clone + PartialEq>(
    mut items: Vec<T>,
    blank: &T,
    budget: usize,
    mut fails: impl FnMut(&[T]) -> bool,
) -> Vec<T> {
    let mut left = budget;
    let mut chunk = items.len().div_ceil(2).max(1);
    loop {
        let mut changed = false;
        for start in (0..items.len()).step_by(chunk) {
            let end = (start + chunk).min(items.len());
            if left == 0 || items[start..end].iter().all(|item| item == blank) {
                continue;
            }
            let mut candidate = items.clone();
            candidate[start..end].fill(blank.clone());
            left -= 1;
            if fails(&candidate) {
                items = candidate;
                changed = true;
            }
        }
        if left == 0 || (chunk == 1 && !changed) {
            break;
        }
        chunk = (chunk / 2).max(1);
    }
    remove_blanks(items, blank, budget, fails)
}

fn remove_blanks<T: Clone + PartialEq>(
    mut items: Vec<T>,
    blank: &T,
    mut budget: usize,
    mut fails: impl FnMut(&[T]) -> bool,
) -> Vec<T> {
    let without: Vec<T> = items.iter().filter(|item| *item != blank).cloned().collect();
    if fails(&without) {
        return without;
    }
    let mut at = 0;
    while at < items.len() && budget > 0 {
        if items[at] == *blank {
            let mut candidate = items.clone();
            candidate.remove(at);
            budget -= 1;
            if fails(&candidate) {
                items = candidate;
                continue;
            }
        }
        at += 1;
    }
    items
}
