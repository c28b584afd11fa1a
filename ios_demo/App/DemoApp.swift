import SwiftUI

@main
struct DemoApp: App {
  @State private var model = AppModel()

  var body: some Scene {
    WindowGroup {
      RootView().environment(model)
    }
  }
}
