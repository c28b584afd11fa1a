// Android's own classes as later levels have them, where the checks' android.jar of API 23 lacks a constant.
package android.content.pm

class ServiceInfo {
    companion object {
        const val FOREGROUND_SERVICE_TYPE_DATA_SYNC = 1
    }
}
