// In place of penstock.exe in an MSI that Wine installs: writes down how it was called, runs as a service, fails if it is told to.
//
// Wine has no driver store, so what the program itself would do there is not shown by it.
#include <windows.h>
#include <stdio.h>
#include <string.h>

// Where the version of a program is looked for: the mark, then the version's numbers.
__attribute__((used)) static const unsigned short version[] = {
    0x04bd, 0xfeef, 0, 1, MINOR, MAJOR, 0, 0,
};

static SERVICE_STATUS_HANDLE service;

static void say(const char *what) {
    FILE *log = fopen("C:\\penstock.log", "a");
    if (log) {
        fprintf(log, "%d.%d %s\n", version[5], version[4], what);
        fclose(log);
    }
}

static void is(DWORD state) {
    SERVICE_STATUS status = {SERVICE_WIN32_OWN_PROCESS, state, state == SERVICE_RUNNING ? SERVICE_ACCEPT_STOP : 0, 0, 0, 0, 0};
    SetServiceStatus(service, &status);
}

static DWORD WINAPI told(DWORD control, DWORD type, void *data, void *context) {
    (void)type, (void)data, (void)context;
    if (control == SERVICE_CONTROL_STOP) {
        say("service stopped");
        is(SERVICE_STOPPED);
    }
    return NO_ERROR;
}

static void WINAPI serve(DWORD count, char **arguments) {
    (void)count, (void)arguments;
    service = RegisterServiceCtrlHandlerExA("PenstockManager", told, NULL);
    say("service started");
    is(SERVICE_RUNNING);
}

// A program that runs is not deleted: Wine deletes files before it calls what undoes an action.
static void stay(const char *path) {
    char line[MAX_PATH + 8];
    STARTUPINFOA startup = {sizeof startup};
    PROCESS_INFORMATION started;
    snprintf(line, sizeof line, "\"%s\" stay", path);
    if (CreateProcessA(path, line, NULL, NULL, FALSE, 0, NULL, NULL, &startup, &started)) {
        CloseHandle(started.hThread);
        CloseHandle(started.hProcess);
    }
}

int main(int count, char **arguments) {
    char line[200] = "";
    for (int at = 1; at < count; at++)
        snprintf(line + strlen(line), sizeof line - strlen(line), "%s%s", at > 1 ? " " : "", arguments[at]);
    char path[MAX_PATH] = "";
    GetModuleFileNameA(NULL, path, sizeof path);
    if (!strcmp(line, "stay")) {
        Sleep(5000);
        return 0;
    }
    char call[sizeof line + sizeof path];
    snprintf(call, sizeof call, "%s: %s", strrchr(path, '\\') ? strrchr(path, '\\') + 1 : path, line);
    say(call);
    if (!strcmp(line, "service manager")) {
        SERVICE_TABLE_ENTRYA table[] = {{"PenstockManager", serve}, {NULL, NULL}};
        return !StartServiceCtrlDispatcherA(table);
    }
    if (!strcmp(line, "driver install") && GetFileAttributesA("C:\\fail") != INVALID_FILE_ATTRIBUTES) {
        stay(path);
        return 1;
    }
    return 0;
}
