import SwiftUI

extension Binding {
  /// Whether there is something to show; dismissing it leaves nothing.
  func isPresent<Wrapped: Sendable>() -> Binding<Bool> where Value == Wrapped? {
    Binding<Bool>(get: { wrappedValue != nil }, set: { if !$0 { wrappedValue = nil } })
  }
}
