import UIKit

/// Keeps the screen on during work that takes minutes: once it locks, the system suspends the app.
@MainActor
enum Awake {
  private static var works = 0

  static func during<Result: Sendable>(_ work: () async throws -> Result) async rethrows -> Result {
    works += 1
    UIApplication.shared.isIdleTimerDisabled = true
    defer {
      works -= 1
      UIApplication.shared.isIdleTimerDisabled = works > 0
    }
    return try await work()
  }
}
