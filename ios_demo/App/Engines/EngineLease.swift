import Observation

/// An engine has one sequence: one screen uses it at a time, the others wait.
@MainActor @Observable
final class EngineLease {
  private(set) var isTaken = false

  /// Takes the engine for the time of some work, with the screen on; does nothing while somebody else has it.
  func hold(_ work: () async throws -> Void) async rethrows {
    guard !isTaken else { return }
    isTaken = true
    defer { isTaken = false }
    try await Awake.during(work)
  }
}
